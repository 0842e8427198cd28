"""The families that pruning knows: each adapter registers the model types that it is for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import nn

from prunevid_qwen.adapters.adapter import Adapter
from prunevid_qwen.adapters.releases import check_transformers
from prunevid_qwen.adapters.seams import transformers_release
from prunevid_qwen.errors import UnsupportedError

_Class = TypeVar("_Class", bound=type)

HOW_TO_ADD = 'To add a family, see "A new model" in CONTRIBUTING.md'


@dataclass(frozen=True)
class Family:
    """What stands in the table for a ``model_type``.

    Args:
        adapter: the class that knows the family; it is made of a loaded model.
        frontend: name of the frontend that turns files into its inputs: "qwen" and "qwen3" are this package's own, of
            Qwen2.5-VL and of Qwen3-VL, "stock" is the library's processor.
        name: what people call it.
        checkpoints: one of its published ones, as a hub id with ``*`` for what may differ; "" where none is known.
    """

    adapter: type[Any]
    frontend: str
    name: str
    checkpoints: str


_FAMILIES: dict[str, Family] = {}
_REFUSED = {
    "qwen4_exp": "between its layers stand several streams of states, and its cache holds the keys of an indexer and "
    "the positions of all tokens, which no stage can shorten",
}
"""Families that were looked at and cannot be pruned, by ``model_type``, and why."""


def register_family(
    *model_types: str, frontend: str = "stock", name: str = "", checkpoints: str = ""
) -> Callable[[_Class], _Class]:
    """Enter an adapter's class into the table of families.

    Args:
        model_types: ``model_type`` of the configs that it is for, as transformers spells them.
        frontend, name, checkpoints: see `Family`; the name is the ``model_type`` where none is given.

    Raises:
        ValueError: none is named, or one of them has another adapter already.
    """
    if not model_types:
        raise ValueError("register_family needs at least one model_type")

    def enter(adapter: _Class) -> _Class:
        for each in model_types:
            known = _FAMILIES.setdefault(each, Family(adapter, frontend, name or each, checkpoints))
            if known.adapter is not adapter:
                raise ValueError(f"model_type {each!r} is registered already, for {known.adapter.__name__}")
        return adapter

    return enter


def families() -> tuple[str, ...]:
    """Return every ``model_type`` that pruning knows, in the order of their registration."""
    return tuple(_FAMILIES)


def family_of(model_type: str | None, what: str = "the model") -> Family:
    """Look a ``model_type`` up.

    Args:
        model_type: of a config; None where it has none.
        what: that has it, as the error is to call it: a path or a class.

    Raises:
        UnsupportedError: it is not known; the message lists those that are, and names the page on adding one.
    """
    known = _FAMILIES.get(model_type or "")
    if known is None and model_type in _REFUSED:
        raise UnsupportedError(
            f"model_type {model_type!r} ({what}) cannot be pruned: {_REFUSED[model_type]}. Run it without pruning, or "
            f"use a model of another family: {', '.join(families())}"
        )
    if known is None:
        raise UnsupportedError(
            f"model_type {model_type!r} ({what}) is not supported. Supported: {', '.join(families())}. {HOW_TO_ADD}"
        )
    return known


def adapter_for(model: nn.Module) -> Adapter:
    """Find the adapter of a loaded model.

    Raises:
        UnsupportedError: the family is not known, the model makes no logits, or it is sharded by tensor parallelism.
        SetupError: the installed transformers is too old.
    """
    check_transformers(transformers_release())
    model = getattr(model, "_orig_mod", model)  # torch.compile(model)
    unwrap = getattr(model, "get_base_model", None)  # peft
    base: Any = unwrap() if callable(unwrap) else model
    family = family_of(getattr(getattr(base, "config", None), "model_type", None), f"a {type(base).__name__}")
    if not hasattr(base, "lm_head"):
        raise UnsupportedError(
            f"a {type(base).__name__} has no lm_head: pass the whole model, a ...ForConditionalGeneration, not a part "
            "of it"
        )
    if (getattr(base, "tp_size", None) or 1) > 1 or getattr(base, "_tp_plan_applied", False):
        raise UnsupportedError(
            "tensor parallelism is not supported, because each rank has only some heads and would keep other tokens: "
            "use device_map instead"
        )
    adapter: Adapter = family.adapter(base)
    return adapter


def visual_tokens(model: nn.Module, ids: Any) -> list[int]:
    """Count the visual tokens of each prompt of a batch in its token ids [B, S]."""
    return (adapter_for(model).types(ids) > 0).sum(-1).tolist()  # type: ignore[no-any-return]
