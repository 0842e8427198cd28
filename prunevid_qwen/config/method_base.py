"""What the options of methods share: ranges of those with the same name, and layers. Imports no torch."""

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
"""Before which decoder layers a method acts: indices from 1, or None for the depth's default. A float in (0, 1) is a
share of the depth, as ``pruning_layer`` takes it: the method acts after layer ``int(share * depth)``, from 0."""

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
    """Raise `ConfigError` where the value of an option that several methods share is out of its range."""
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
        raise ConfigError(f"{name} is a folder, a hub id or 'bundled', got {quoted(value)}")
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
        raise ConfigError(f"a float {name} is a share of the depth in (0, 1), got {value}; an index is an int")


def checked_layers(value: object, most: int | None = 1) -> tuple[int | float, ...] | None:
    """Return ``layers`` as a tuple, ascending, or None. Whether a share ascends after an index, a depth decides.

    Raises:
        ConfigError: none of them, more than ``most``, one that is no layer, or one that does not ascend.
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
        raise ConfigError(f"layers is {few} for this method, got {quoted(value)}")
    for one, other in pairwise(layers):
        if type(one) is type(other) and one >= other:
            raise ConfigError(f"layers ascend, each once: {other} comes after {one} in {quoted(value)}")
    return layers


class MethodOptions:
    """Base of options: those whose name several methods share are checked for their range on construction.

    Its class attributes are what a method says of itself, and the reducer may say instead: benchmarks and reports ask
    for them, and never for a name.
    """

    most_layers: ClassVar[int | None] = 1  # cuts the method makes at most
    lever: ClassVar[str | None] = None  # the option that spends a budget; None: cluster_ratio or keep_ratio
    lever_needs: ClassVar[Mapping[str, Any]] = MappingProxyType({})  # options under which the lever alone decides
    chance: ClassVar[bool] = False  # draws random numbers, by ``random_seed``
    exact: ClassVar[bool] = False  # leaves the lever's share of each video, whatever it shows
    budgets: ClassVar[tuple[str, ...]] = ()  # options of which one alone may be set; (): keep_tokens excludes shares
    averages: ClassVar[bool] = False  # its keep_ratio and keep_tokens are averages over the decoder's layers
    trained: ClassVar[bool] = False  # acts where its weights were trained to act, unless ``layers`` say otherwise
    every_flat_option: ClassVar[bool] = False  # of 0.1, where a selector of somebody's own was held to keep_ratio
    told: ClassVar[bool] = False  # the caller says what to keep: an upper end of comparisons, no method

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
        """Return before which layers of a decoder of ``depth`` layers the method acts; None: the depth's default.

        Raises:
            ConfigError: so shallow a decoder has no room for them.
        """
        own: tuple[int | float, ...] | None = getattr(self, "layers", None)
        return own

    @property
    def merges_inside(self) -> bool:
        """Whether the method may merge between two layers: then the caches before it cannot be cut, and stay whole."""
        return False

    def most(self, layout: Any, step: int = 0) -> int | None:
        """Say how many visual tokens may be left at most; None: that depends on what is seen.

        Here the share or the count of each video and image, for a method of one step. Others say it themselves.

        Args:
            layout: `TokenLayout` of what comes to the step; its blocks are read.
            step: which of the method's steps it is, from 0.
        """
        share, count = getattr(self, "keep_ratio", None), getattr(self, "keep_tokens", None)
        if share is None and self.exact:
            share = getattr(self, "cluster_ratio", None)
        if share is None or self.most_layers != 1 or threshold_of(self) is not None:
            return None
        images = getattr(self, "merge_images", True)
        sizes = [(each.stop - each.start, each.kind == "video" or images) for each in layout.blocks]
        return sum(count_of(size, share, count) if acts and size else size for size, acts in sizes)


def scaled_layers(paper: tuple[int, ...], of: int, depth: int) -> tuple[int, ...]:
    """Put a paper's cuts at the same shares of another depth.

    A cut before layer l of ``of`` stands before layer ``l * depth / of``, rounded, halves up; where two meet, and
    before layer 0, the later one stands a layer deeper.

    Args:
        paper: before which layers the paper cuts, ascending, from 1.
        of: layers of the paper's decoder.
        depth: layers of the decoder at hand.

    Raises:
        ConfigError: the last one would not stand before a layer.
    """
    layers: list[int] = []
    for layer in paper:
        layers.append(max(layers[-1] + 1 if layers else 1, (2 * layer * depth + of) // (2 * of)))
    if layers[-1] >= depth:
        raise ConfigError(
            f"a decoder of {depth} layers has no room for {len(paper)} cuts: give `layers`, and what each cut leaves"
        )
    return tuple(layers)


def threshold_of(own: Any) -> float | None:
    """Return the probability above which a selector keeps tokens; None where none decides."""
    found: float | None = getattr(own, "keep_threshold", None)
    return None if getattr(own, "every_flat_option", False) else found


def fixed_share(own: Any) -> float | None:
    """Return the share that a selector asks for; None: what is seen or a count decides, or it is an average."""
    share: float | None = getattr(own, "keep_ratio", None)
    if share != 1 and (getattr(own, "averages", False) or threshold_of(own) is not None):
        return None
    return share if getattr(own, "keep_tokens", None) is None else None


def check_budgets(own: Any) -> None:
    """Raise `ConfigError` where options or reducers that are no `MethodOptions` hold budgets or layers out of range."""
    check_amounts(own)
    if own is not None and not isinstance(own, MethodOptions):
        checked_layers(getattr(own, "layers", None), most=None)


def check_amounts(own: Any) -> None:
    """Raise `ConfigError` where they hold a budget out of range."""
    if own is None or isinstance(own, MethodOptions):
        return
    for name in ("keep_ratio", "cluster_ratio", "keep_tokens"):
        if getattr(own, name, None) is not None:
            check_option(name, getattr(own, name))


def resolve_layer(pruning_layer: int | float | None, layers: int) -> int:
    """Turn ``pruning_layer`` into an index for a model of ``layers`` decoder layers (prunevid.md section 7).

    Raises:
        ConfigError: the index is beyond the model; for one of a 7B model the message names the share that it is there.
    """
    if pruning_layer is None:
        return 10 if layers >= 20 else int(layers * 10 / 28)
    if isinstance(pruning_layer, float):
        return int(pruning_layer * layers)
    if pruning_layer >= layers:
        raise ConfigError(
            f"pruning_layer={pruning_layer}, but this model has {layers} layers (0 to {layers - 1}): give one of "
            f"these, or None for the default{_as_share('pruning_layer', pruning_layer, layers)}"
        )
    return pruning_layer


def layer_after(before: int | float | None, layers: int) -> int:
    """Turn one of a method's ``layers``, which see what is left first, into the layer on whose output it acts.

    Args:
        before: counted from 1, ``layers`` being the place after the last layer; a share of the depth; or None.
        layers: decoder layers of the model.

    Raises:
        ConfigError: it is beyond the model; the message counts as ``layers`` do, and says the flat name's number too.
    """
    if not isinstance(before, int):
        return resolve_layer(before, layers)
    if before > layers:
        raise ConfigError(
            f"layers={before} (the same as pruning_layer={before - 1}), but this model has {layers} layers (0 to "
            f"{layers - 1}): give layers from 1 to {layers}, or None for the default"
            f"{_as_share('layers', before - 1, layers)}"
        )
    return before - 1


_PAPER_LAYERS = 28  # of Qwen2-VL-7B and Qwen2.5-VL-7B


def _as_share(name: str, index: int, layers: int) -> str:
    """Offer the share of the depth that a layer of the papers' model is; nothing for one that it does not have."""
    if index >= _PAPER_LAYERS:
        return ""
    share = round(index / _PAPER_LAYERS, 2)
    here = int(share * layers) + (name == "layers")
    return (
        f". Layer {index} of the {_PAPER_LAYERS} layers of a 7B model is at a share of {share:.2f}: pass "
        f"{name}={share:.2f}, which is {name}={here} here"
    )
