"""Budgets of methods that prune at different depths, made equal: FlashVID's definition, solved for one option.

A share m of the visual tokens enters the decoder and runs through its first K layers, a share r through the other
L - K. The budget b is the mean over layers: b * L = m * K + r * (L - K).
"""

from __future__ import annotations

from itertools import pairwise
from statistics import fmean
from types import SimpleNamespace
from typing import NamedTuple

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.config.amounts import percent
from prunevid_qwen.config.method_base import MethodOptions, resolve_layer
from prunevid_qwen.config.option_checks import check_share
from prunevid_qwen.errors import ConfigError


class Depth(NamedTuple):
    """How many layers a decoder has, and the one, from 0, after which its GlimpsePrune predictor selects.

    None is at two thirds of the depth, as all published ones (18 of 28 layers, 23 of 36).
    """

    layers: int
    glimpse: int | None = None

    @property
    def glimpse_layer(self) -> int:
        """The layer after which GlimpsePrune selects."""
        return -(-2 * self.layers // 3) - 1 if self.glimpse is None else self.glimpse


PUBLISHED_DEPTH = Depth(28)  # Qwen2.5-VL-7B, which all tables are of


def spending(config: PruneVidConfig, budget: float, depth: Depth) -> PruneVidConfig:
    """Return a config with one cut at most, solved for a budget: its merger's ``cluster_ratio``, else ``keep_ratio``.

    A merger whose groups each leave a token stays within it only with ``min_cluster_tokens=1``; the authors' 14 is
    meant for frames of 140 to 196 tokens.

    Raises:
        ConfigError: no value of the option spends it.
    """
    check_share("budget", budget)
    layers = depth.layers
    first = (*_layers_before(config, depth), layers)[0]
    if config.merger is None:
        if budget * layers <= first:
            raise ConfigError(
                f"{first} of {layers} layers see all tokens, which is {percent(first / layers, 1)} on average, and the "
                f"budget is {percent(budget, 1)}: select earlier, or take a larger budget"
            )
        return config.replace(keep_ratio=(budget * layers - first) / (layers - first))
    keep = getattr(config.selector, "keep_ratio", 1.0)
    share = budget if first == layers else budget * layers / (first + keep * (layers - first))
    if share > 1:
        raise ConfigError(f"a budget of {percent(budget, 1)} is not spent at keep_ratio={keep}: take a larger one")
    return config.replace(cluster_ratio=share)


def budget_of(config: PruneVidConfig, depth: Depth) -> tuple[float, bool]:
    """Return the mean over layers that a config asks for, and whether it is met exactly.

    Else it is the most that a video leaves; one whose groups are small can exceed even that, since each leaves a token
    and ``min_cluster_tokens`` may leave them whole.
    """
    shares, exact = layer_shares(config, depth)
    return fmean(shares), exact


def layer_shares(config: PruneVidConfig, depth: Depth, free: float = 1.0) -> tuple[list[float], bool]:
    """Return the share of the visual tokens that each layer sees, and whether it is exactly that or may be less.

    A selector that is asked for an average over layers has that average in each; a cut leaves the share ``free`` where
    the video decides and nothing caps it.
    """
    own, merger = config.selector, config.merger
    entering = getattr(merger, "cluster_ratio", getattr(merger, "keep_ratio", None))
    exact = getattr(merger, "exact", False)
    if entering is None or getattr(merger, "keep_tokens", None) is not None:
        entering, exact = 1.0, merger is None
    shares = [entering]
    if getattr(own, "averages", False) and getattr(own, "keep_ratio", None) is not None:
        return [entering * own.keep_ratio] * depth.layers, exact
    before = _layers_before(config, depth)
    for step in range(len(before)):
        left = _left(config, step, shares[-1] / entering)
        exact = exact and left is not None and getattr(own, "max_keep_ratio", None) is None
        shares.append(shares[-1] * (free if left is None else left))
    edges = (0, *before, depth.layers)
    spans = zip(shares, pairwise(edges), strict=True)
    return [share for share, (start, stop) in spans for _ in range(start, stop)], exact


def _layers_before(config: PruneVidConfig, depth: Depth) -> list[int]:
    """Return how many layers run before each cut."""
    own = config.selector
    if own is None:
        return []
    if getattr(own, "trained", False) and config.pruning_layer is None:
        return [depth.glimpse_layer + 1]
    layers = own.layers_for(depth.layers) if isinstance(own, MethodOptions) else getattr(own, "layers", None)
    layers = layers if isinstance(layers, (tuple, list)) else (layers,)
    return [resolve_layer(at - 1 if isinstance(at, int) else at, depth.layers) + 1 for at in layers]


def _left(config: PruneVidConfig, step: int, came: float) -> float | None:
    """Return the share of what comes to a cut, ``came`` of what entered, that it leaves; None: the video decides."""
    own = config.selector
    if config.fixed_keep_ratio is not None and getattr(own, "most_layers", 1) == 1:
        return config.fixed_keep_ratio
    if getattr(own, "max_keep_ratio", None) is not None:
        return float(own.max_keep_ratio)
    if getattr(own, "keep_tokens", None) is not None or not isinstance(own, MethodOptions):
        return None
    size = round(10_000_000 * came)  # tokens, of which a rounded one is nothing
    most = own.most(SimpleNamespace(blocks=(SimpleNamespace(kind="video", start=0, stop=size),)), step)
    return None if most is None else most / size
