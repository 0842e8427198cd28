"""Loading a stock model from a folder, a hub id or the package itself, with errors that say what to do next."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prunevid_qwen.adapters import check_transformers, family_of
from prunevid_qwen.adapters.folder_json import read_json
from prunevid_qwen.adapters.original_llava import conversion_of
from prunevid_qwen.bundled import TOYS
from prunevid_qwen.bundled import bundled_model as bundled_model
from prunevid_qwen.config import PruneVidConfig, option_types
from prunevid_qwen.config.option_checks import unknown
from prunevid_qwen.errors import ConfigError, SetupError, UnknownOption, UnsupportedError, quoted
from prunevid_qwen.version import TESTED

_log = logging.getLogger(__name__)

HUB_ARGUMENTS = ("revision", "token", "cache_dir", "local_files_only")
_LOADING = ("config", "device", "dtype", "device_map", "attn_implementation", "quantization_config", *HUB_ARGUMENTS)
_LONGEST_ID = 200  # characters; the hub takes fewer


def choose_device(device: str | None) -> str:
    """Return ``device``, or the GPU when there is one, else the CPU.

    Raises:
        SetupError: a GPU is asked for and torch sees none.
    """
    import torch

    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind = str(device).split(":")[0]
    if kind == "cuda" and not torch.cuda.is_available():
        build = "this torch is a CPU build" if torch.version.cuda is None else "no driver or GPU answers"
        raise SetupError(
            f"device={quoted(device)} was asked for, but torch {torch.__version__} finds no GPU "
            f"({build}): leave device unset or pass device='cpu'"
        )
    if kind == "mps" and not torch.backends.mps.is_available():
        raise SetupError(
            "device='mps' was asked for, but this machine has none: leave device unset or pass device='cpu'"
        )
    return str(device)


def load_model(source: str, device: str | None, arguments: dict[str, Any]) -> Any:
    """Load a model of a supported family with transformers' own ``from_pretrained``.

    Its bar of the weights is shown where the logger "prunevid_qwen" is at INFO, or nobody tested this release.

    Args:
        source: a folder or a hub id.
        device: where to put it; ignored under ``device_map``.
        arguments: what `from_pretrained` takes.

    Raises:
        ConfigError: ``source`` is neither a folder nor a hub id, or an argument is unknown (`UnknownOption`).
        UnsupportedError: the model is of another family.
        SetupError: it cannot be reached, or torchvision does not match torch.
    """
    import transformers

    hub = {name: value for name, value in arguments.items() if name in HUB_ARGUMENTS}
    config_of(source, hub)
    where = None if arguments.get("device_map") is not None else choose_device(device)
    try:
        with _bar_of_loading(transformers.__version__):
            model = transformers.AutoModelForImageTextToText.from_pretrained(source, **arguments)
    except OSError as error:
        raise _unreachable(source, error) from error
    except TypeError as error:
        wrong = next((name for name in arguments if f"'{name}'" in str(error)), None)
        if wrong is None:
            raise
        if wrong in (*option_types(), *PruneVidConfig.__dataclass_fields__):
            said = f"{wrong} is an option of the config: pass config=PruneVidConfig({wrong}=...)"
            raise UnknownOption(said) from error
        raise UnknownOption(unknown("from_pretrained takes", wrong, _LOADING)) from error
    except RuntimeError as error:
        if "torchvision" in str(error):
            raise SetupError(
                "the installed torchvision does not match torch, so transformers cannot import the model. This package "
                "does not need torchvision: pip uninstall torchvision"
            ) from error
        raise
    return (model if where is None else model.to(where)).eval()


def config_of(source: str, hub: dict[str, Any]) -> Any:
    """Read the config of a model of a supported family; no weights are loaded.

    Args:
        source: a folder or a hub id.
        hub: of `HUB_ARGUMENTS`.

    Raises:
        ConfigError: ``source`` is neither a folder nor a hub id.
        UnsupportedError: the model is of another family, or its weights belong to other code than transformers'.
        SetupError: it cannot be reached.
    """
    import transformers

    check_transformers(transformers.__version__)
    check_source(source)
    try:
        config = transformers.AutoConfig.from_pretrained(source, **hub)
    except (OSError, ConnectionError) as error:
        raise _unreachable(source, error) from error
    except ValueError as error:  # of a model type that transformers itself does not know
        _check_format(source, hub)
        family_of(read_json(source, "config.json", hub).get("model_type"), source)
        raise SetupError(f"cannot read the config of {quoted(source)}: {error}") from error
    _check_format(source, hub)
    family_of(config.model_type, source)
    made = getattr(config, "architectures", None) or ()
    if made and not any(name.endswith("ForConditionalGeneration") for name in made):
        raise UnsupportedError(
            f"{source} holds a {', '.join(made)}, a class that transformers does not have: pass a converted model"
        )
    return config


def _check_format(source: str, hub: dict[str, Any]) -> None:
    """Refuse a checkpoint of another format that shares a model type with transformers' own."""
    instead = conversion_of(read_json(source, "config.json", hub))
    if instead is not None:
        raise UnsupportedError(f"{source} holds {instead}")


@contextmanager
def _bar_of_loading(release: str) -> Iterator[None]:
    """Hide transformers' bars unless this package logs INFO, or nobody tested ``release``; downloads keep theirs."""
    from huggingface_hub import utils as hub
    from transformers.utils import logging as library

    if release not in TESTED or _log.isEnabledFor(logging.INFO) or not library.is_progress_bar_enabled():
        yield
        return
    hidden = hub.are_progress_bars_disabled()
    library.disable_progress_bar()  # the hub's too
    if not hidden:
        hub.enable_progress_bars()
    try:
        yield
    finally:
        library.enable_progress_bar()
        if hidden:
            hub.disable_progress_bars()


def check_source(source: str) -> None:
    """Refuse what is neither a folder with a model's config nor a hub id; nothing is asked of the network.

    Raises:
        ConfigError: see above.
    """
    if os.path.isdir(source):
        if not (Path(source) / "config.json").is_file():
            raise ConfigError(f"{source} has no config.json: pass the folder that holds the model's files")
        return
    looks_local = source.startswith((".", "/", "~")) or source.count("/") > 1 or "\\" in source
    if looks_local or len(source) > _LONGEST_ID or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", source):
        raise ConfigError(
            f"no model folder at {quoted(source)}, and that is no hub id like 'Qwen/Qwen2.5-VL-7B-Instruct'"
        )
    if "/" not in source:
        raise ConfigError(
            f"no model folder at {quoted(source)}, and a hub id has an owner: did you mean 'Qwen/{source}'? "
            f"Pass {' or '.join(map(quoted, TOYS))} for a toy that comes with the package"
        )


def _unreachable(source: str, error: Exception) -> SetupError:
    name = source.rstrip("/").split("/")[-1]
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return SetupError(
        f"cannot load {quoted(source)}: {reason}\nIf this machine has no network, download the model on "
        f"another one (`hf download {source} --local-dir {name}`), copy the folder here and pass "
        f"model_path='./{name}'. {' and '.join(map(quoted, TOYS))} need no download"
    )
