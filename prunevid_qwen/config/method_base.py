"""The common part of all methods' options: value ranges of options with the same name, and layers. Imports no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from itertools import pairwise
from types import MappingProxyType
from typing import Any, ClassVar

from prunevid_qwen.config.amounts import count_of
from prunevid_qwen.config.option_checks import check_count, check_share, is_number, unknown
from prunevid_qwen.errors import ConfigError, quoted

Layers = tuple[int | float, ...] | int | float | None
"""The decoder layers before which a method acts: indices from 1, or None for the depth's default. A float in (0, 1) is
a share of the depth, as in ``pruning_layer``: the method acts after layer ``int(share * depth)``, counted from 0."""

CHOICES: dict[str, tuple[str, ...]] = {
    "cluster_scope": ("per_group", "video"),
    "merged_position": ("center", "mean", "first"),
    "token_order": ("spatiotemporal", "grouped"),
    "attention_source": ("post_rope", "pre_rope"),
    "selection_scope": ("global", "per_group"),
    "attention_aggregation": ("max", "mean"),
    "question_tokens": ("all", "question", "last"),
    "budget_scope": ("sample", "image"),
}
_SHARES = ("tau", "cluster_ratio", "temporal_segment_ratio", "keep_ratio", "static_cluster_ratio", "max_keep_ratio")
_MAY_BE_NONE = ("static_cluster_ratio", "max_keep_ratio")
_LEAST = {"dpc_knn_k": 1, "min_cluster_tokens": 0, "random_seed": 0, "min_keep_tokens": 1}


def check_option(name: str, value: object) -> None:
    """Raise `ConfigError` if the value of an option that several methods share is out of its range."""
    if name in _SHARES and not (value is None and name in _MAY_BE_NONE):
        check_share(name, value)
    elif name in _LEAST:
        check_count(name, value, _LEAST[name])
    elif name == "keep_tokens" and value is not None:
        check_count(name, value, 1)
    elif name in CHOICES and value not in CHOICES[name]:
        raise ConfigError(unknown(f"{name} is one of", value, CHOICES[name]))
    elif name == "merge_images" and not isinstance(value, bool):
        raise ConfigError(f"{name} is True or False, got {quoted(value)}")
    elif name == "glimpse_path" and (not isinstance(value, str) or not value):
        raise ConfigError(f"{name} is a folder, a hub id or 'bundled'; got {quoted(value)}")
    elif name == "keep_threshold" and value is not None and (not is_number(value) or not 0 <= value < 1):  # type: ignore[operator]
        raise ConfigError(f"{name} is a probability in [0, 1), or None; got {quoted(value)}")


def check_layer(name: str, value: object, least: int) -> None:
    """Raise `ConfigError` unless ``value`` is a layer's index of at least ``least``, a share in (0, 1), or None."""
    if value is None:
        return
    if not is_number(value):
        raise ConfigError(f"{name} is a layer index, a share in (0, 1) or None, got {quoted(value)}")
    if isinstance(value, int) and value < least:
        raise ConfigError(f"{name} counts from {least}, got {value}")
    if isinstance(value, float) and not 0 < value < 1:
        raise ConfigError(f"a float {name} is a share of the depth in (0, 1), got {value}; give an index as an int")


def checked_layers(value: object, most: int | None = 1) -> tuple[int | float, ...] | None:
    """Return ``layers`` as an ascending tuple, or None.

    A share and an index are not compared with each other, because their order depends on the depth.


    Raises:
        ConfigError: there are no layers or more than ``most``, an entry is no layer, or the entries do not ascend.
    """
    if value is None:
        return None
    layers = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    for layer in layers:
        if layer is None:
            raise ConfigError(f"layers are indices from 1 or shares in (0, 1), got {quoted(value)}")
        check_layer("layers", layer, 1)
    if not layers or (most is not None and len(layers) > most):
        few = "one layer" if most == 1 else "at least one layer" if most is None else f"1 to {most} layers"
        raise ConfigError(f"this method takes {few}, got layers={quoted(value)}")
    for one, other in pairwise(layers):
        if type(one) is type(other) and one >= other:
            raise ConfigError(f"layers must ascend, but {other} comes after {one} in {quoted(value)}")
    return layers


class MethodOptions:
    """Base class of a method's options. Values of options that several methods share are checked on construction.

    The class attributes describe the method. The reducer's class may set them instead. Benchmarks and reports read
    these attributes and never compare a method's name.
    """

    most_layers: ClassVar[int | None] = 1  # largest number of cuts; None: no limit
    lever: ClassVar[str | None] = None  # the option that sets the budget; None: cluster_ratio or keep_ratio
    lever_needs: ClassVar[Mapping[str, Any]] = MappingProxyType({})  # other options that make the lever decide alone
    chance: ClassVar[bool] = False  # draws random numbers, seeded by ``random_seed``
    exact: ClassVar[bool] = False  # leaves the lever's share of each video, whatever its content
    budgets: ClassVar[tuple[str, ...]] = ()  # options that exclude each other; (): keep_tokens excludes shares
    averages: ClassVar[bool] = False  # keep_ratio and keep_tokens are averages over the decoder's layers
    trained: ClassVar[bool] = False  # acts at the layer for which its weights were trained, unless ``layers`` is set
    every_flat_option: ClassVar[bool] = False  # options of a selector written for 0.1, with keep_ratio as its budget
    ours: ClassVar[bool] = False  # a method of this package, from no paper
    told: ClassVar[bool] = False  # the caller marks the tokens to keep: an upper bound, not a method

    def __post_init__(self) -> None:
        for each in dataclasses.fields(self):  # type: ignore[arg-type]
            if each.name == "layers":
                object.__setattr__(self, "layers", checked_layers(getattr(self, each.name), self.most_layers))
            elif getattr(self, each.name) is not None or each.default is not None:  # its default None is a value too
                check_option(each.name, getattr(self, each.name))
        if getattr(self, "keep_tokens", None) is None:
            return
        for share in ("keep_ratio", "cluster_ratio"):
            if getattr(self, share, None) != getattr(type(self), share, None):
                raise ConfigError(f"{share} and keep_tokens are two budgets: give one of them")

    def layers_for(self, depth: int) -> tuple[int | float, ...] | None:
        """Return the layers before which the method acts in a decoder of ``depth`` layers; None: the depth's default.

        Raises:
            ConfigError: the decoder has too few layers for the method's cuts.
        """
        own: tuple[int | float, ...] | None = getattr(self, "layers", None)
        return own

    @property
    def merges_inside(self) -> bool:
        """True if the method may merge between two layers. The caches of the layers before it then stay whole."""
        return False

    def most(self, layout: Any, step: int = 0) -> int | None:
        """Return the largest number of visual tokens that the step may leave; None: it depends on the content.

        This default serves methods of one step: the share or the count of each video and image, added up.

        Args:
            layout: `TokenLayout` of the tokens before the step; only its blocks are read.
            step: number of the step among the method's steps, from 0.
        """
        share, count = getattr(self, "keep_ratio", None), getattr(self, "keep_tokens", None)
        whole = share is None and self.exact  # videos at the door, where newlines stay beside the budget
        if whole:
            share = getattr(self, "cluster_ratio", None)
        if share is None or self.most_layers != 1 or threshold_of(self) is not None:
            return None
        images = getattr(self, "merge_images", True)
        total = 0
        for each in layout.blocks:
            size, beside = each.stop - each.start, each.unplaced if whole else 0
            acts = size > beside and (each.kind == "video" or images)
            total += beside + count_of(size - beside, share, count) if acts else size
        return total


def scaled_layers(paper: tuple[int, ...], of: int, depth: int) -> tuple[int, ...]:
    """Scale a paper's cuts to a decoder of another depth.

    A cut before layer l of ``of`` becomes a cut before layer ``l * depth / of``, rounded, halves up. A cut that falls
    on layer 0 or on the cut before it moves one layer deeper.

    Args:
        paper: the layers before which the paper cuts, ascending, from 1.
        of: number of layers of the paper's decoder.
        depth: number of layers of this decoder.

    Raises:
        ConfigError: there is no layer left for the last cut.
    """
    layers: list[int] = []
    for layer in paper:
        layers.append(max(layers[-1] + 1 if layers else 1, (2 * layer * depth + of) // (2 * of)))
    if layers[-1] >= depth:
        raise ConfigError(
            f"a decoder of {depth} layers is too shallow for {len(paper)} cuts: give `layers` and each cut's budget"
        )
    return tuple(layers)


def threshold_of(own: Any) -> float | None:
    """Return the probability above which a selector keeps tokens; None if it has no threshold."""
    found: float | None = getattr(own, "keep_threshold", None)
    return None if getattr(own, "every_flat_option", False) else found


def fixed_share(own: Any) -> float | None:
    """Return the share that a selector keeps; None if content or a count decides, or if the share is an average."""
    share: float | None = getattr(own, "keep_ratio", None)
    if share != 1 and (getattr(own, "averages", False) or threshold_of(own) is not None):
        return None
    return share if getattr(own, "keep_tokens", None) is None else None


def check_budgets(own: Any) -> None:
    """Raise `ConfigError` if options or a reducer outside `MethodOptions` have a budget or layers out of range."""
    check_amounts(own)
    if own is not None and not isinstance(own, MethodOptions):
        checked_layers(getattr(own, "layers", None), most=None)


def check_amounts(own: Any) -> None:
    """Raise `ConfigError` if options or a reducer outside `MethodOptions` have a budget out of range."""
    if own is None or isinstance(own, MethodOptions):
        return
    for name in ("keep_ratio", "cluster_ratio", "keep_tokens"):
        if getattr(own, name, None) is not None:
            check_option(name, getattr(own, name))


def resolve_layer(pruning_layer: int | float | None, layers: int) -> int:
    """Return ``pruning_layer`` as an index, for a model of ``layers`` decoder layers.

    Raises:
        ConfigError: the model has no such layer. If a 7B model has it, the message names its share of the depth.
    """
    if pruning_layer is None:
        return 10 if layers >= 20 else int(layers * 10 / 28)
    if isinstance(pruning_layer, float):
        return int(pruning_layer * layers)
    if pruning_layer >= layers:
        raise ConfigError(
            f"pruning_layer={pruning_layer}, but this model has layers 0 to {layers - 1} ({layers} layers): give one "
            f"of these, or None for the default{_as_share('pruning_layer', pruning_layer, layers)}"
        )
    return pruning_layer


def layer_after(before: int | float | None, layers: int) -> int:
    """Return the layer on whose output a method acts, from an entry of its ``layers``: the layer before which it acts.

    Args:
        before: an index from 1 (``layers`` is the place after the last layer), a share of the depth, or None.
        layers: number of decoder layers of the model.

    Raises:
        ConfigError: the model has no such layer. The message has the number of ``layers`` and of ``pruning_layer``.
    """
    if not isinstance(before, int):
        return resolve_layer(before, layers)
    if before > layers:
        raise ConfigError(
            f"layers={before} (the same as pruning_layer={before - 1}), but this model has layers 0 to {layers - 1} "
            f"({layers} layers): give layers from 1 to {layers}, or None for the default"
            f"{_as_share('layers', before - 1, layers)}"
        )
    return before - 1


_PAPER_LAYERS = 28  # of Qwen2-VL-7B and Qwen2.5-VL-7B


def _as_share(name: str, index: int, layers: int) -> str:
    """Return the hint with the layer's share of a 7B model's depth; "" if the 7B has no such layer."""
    if index >= _PAPER_LAYERS:
        return ""
    share = round(index / _PAPER_LAYERS, 2)
    here = int(share * layers) + (name == "layers")
    return (
        f". In a 7B model of {_PAPER_LAYERS} layers, layer {index} is at a share of {share:.2f} of the depth: pass "
        f"{name}={share:.2f} for the same share, which is {name}={here} here"
    )
