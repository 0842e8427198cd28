"""What stands between a user's files and the model: a frontend for each way in which families want their inputs.

A family names its frontend when it is registered (`prunevid_qwen.adapters.register_family`); nothing else asks which
family a model is of in order to read for it.
"""

from __future__ import annotations

import copy
from typing import Any

from prunevid_qwen.adapters import adapter_for, families, family_of
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.errors import UnsupportedError
from prunevid_qwen.forward.plan import Plan, compile_plan
from prunevid_qwen.inputs.frontends.frontend import Frontend as Frontend
from prunevid_qwen.inputs.frontends.frontend import not_shown as not_shown
from prunevid_qwen.inputs.frontends.opening import opened_samples as opened_samples
from prunevid_qwen.inputs.frontends.stock import StockFrontend as StockFrontend
from prunevid_qwen.inputs.qwen.preprocessor import Preprocessor
from prunevid_qwen.inputs.qwen.qwen3 import Qwen3Preprocessor
from prunevid_qwen.loading import config_of

FRONTENDS: dict[str, type[Frontend]] = {"qwen": Preprocessor, "qwen3": Qwen3Preprocessor, "stock": StockFrontend}


def frontend_for(model_type: str) -> type[Frontend]:
    """Return the class of the frontend that a family is registered with.

    Raises:
        UnsupportedError: the family, or its frontend, is not known.
    """
    name = family_of(model_type).frontend
    if name not in FRONTENDS:
        raise UnsupportedError(
            f"the family {model_type} is registered with the frontend {name!r}, which does not exist: use one of "
            f"{', '.join(FRONTENDS)}, or add yours to prunevid_qwen.inputs.frontends.FRONTENDS before loading a model"
        )
    return FRONTENDS[name]


def suited(frontend: Frontend, model: Any, what: PruneVidConfig | Plan) -> Frontend:
    """Return a frontend that reads images as the methods need them: itself, or a copy that pads them to squares.

    Args:
        frontend: of the model.
        model: loaded.
        what: how it is pruned.

    Raises:
        UnsupportedError: a method was trained on images that were padded to squares, and the family's are not.
    """
    plan = compile_plan(what, len(adapter_for(model).parts.layers))
    asking = [step.name for step in plan.steps if step.by.needs.square_images]
    if not asking:
        return frontend
    if not isinstance(frontend, StockFrontend):
        raise UnsupportedError(
            f"{asking[0]!r} was trained on images that were padded to squares, and this family's keep their shape: "
            "pass glimpse_path (--glimpse_path) of a predictor for this model"
        )
    padding = copy.copy(frontend)
    padding.pad_to_square = True
    return padding


def check_reads(source: str, kind: str, hub: dict[str, Any]) -> None:
    """Refuse a video or image that a model is not shown, before its weights are loaded.

    Args:
        source: a folder or a hub id.
        kind: "video" or "image".
        hub: of `prunevid_qwen.loading.HUB_ARGUMENTS`.

    Raises:
        UnsupportedError: the family is not known, or is not shown such a thing.
        ConfigError, SetupError: as `prunevid_qwen.loading.config_of`.
    """
    model_type = config_of(source, hub).model_type
    reads = frontend_for(model_type).reads_of(model_type)
    if kind not in reads:
        raise not_shown(kind, model_type, reads, source)


def check_own_reading(source: str, hub: dict[str, Any]) -> str:
    """Refuse a model whose inputs this package does not make itself, before its weights are loaded; return its family.

    Benchmarks and training read media in other processes and share what is encoded: the library's processors cannot.

    Args:
        source, hub: as in `check_reads`.

    Raises:
        UnsupportedError, ConfigError, SetupError: as in `check_reads`.
    """
    model_type: str = config_of(source, hub).model_type
    if not issubclass(frontend_for(model_type), Preprocessor):
        raise read_by_library(source, model_type)
    return model_type


def read_by_library(what: str, model_type: str) -> UnsupportedError:
    """Make the error for a model whose inputs only the library's processor makes, called ``what``."""
    own = ", ".join(each for each in families() if issubclass(frontend_for(each), Preprocessor))
    return UnsupportedError(
        f"{what} is of the family {model_type}, but this call supports {own} alone, whose inputs this package makes: "
        f"use `prunevid ask` or PrunedVLM.generate"
    )
