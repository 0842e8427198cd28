"""Budgets of methods that prune at different depths, made equal: FlashVID's definition, solved for our options.

A share m of the visual tokens enters the decoder and runs through its first K layers, a share r through the other
L - K. The budget is the mean over layers: b * L = m * K + r * (L - K).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from types import SimpleNamespace
from typing import Any

from prunevid_qwen.config import PruneVidConfig, get_stage1_only_config
from prunevid_qwen.config.amounts import percent
from prunevid_qwen.config.method_base import MethodOptions, resolve_layer
from prunevid_qwen.config.option_checks import check_share
from prunevid_qwen.errors import ConfigError

FASTV_LAYERS = 2
"""K of FastV's paper: scores come from layer 1 (from 0), and the layers from 2 on see what was kept."""

_ALL_GROUPS = 1  # min_cluster_tokens: the authors' 14 is meant for frames of 140 to 196 tokens
_MANY = 10_000_000  # tokens, of which a rounded one is nothing
_SHALLOW = 20  # layers below which `resolve_layer` scales PruneVid's own depth down


@dataclass(frozen=True)
class Depth:
    """How deep a model is.

    Args:
        layers: of its decoder.
        glimpse: the layer, from 0, after which its GlimpsePrune predictor was trained to select; None for two thirds
            of the depth, as all published ones (18 of 28 layers, 23 of 36).
    """

    layers: int
    glimpse: int | None = None

    @property
    def glimpse_layer(self) -> int:
        """The layer after which GlimpsePrune selects."""
        return -(-2 * self.layers // 3) - 1 if self.glimpse is None else self.glimpse


PUBLISHED_DEPTH = Depth(28)
"""Qwen2.5-VL-7B, which all tables are of."""


def mean_over_layers(entering: float, kept: float, first: int, layers: int) -> float:
    """Return b: the share of the visual tokens that a decoder layer sees, on average.

    Args:
        entering: m, the share that the first layers see.
        kept: r, the share that the others see.
        first: K, how many layers come first.
        layers: L.
    """
    return (entering * first + kept * (layers - first)) / layers


def kept_for(budget: float, first: int, layers: int, entering: float = 1.0) -> float:
    """Return r: what a selection after ``first`` layers may keep of all visual tokens.

    Raises:
        ConfigError: the first layers alone spend the budget.
    """
    check_share("budget", budget)
    left = budget * layers - entering * first
    if left <= 0:
        raise ConfigError(
            f"{first} of {layers} layers that see {percent(entering, 1)} of the tokens are "
            f"{percent(entering * first / layers, 1)} on average, and the budget is {percent(budget, 1)}: select "
            "earlier, or take a larger budget"
        )
    return min(1.0, left / (layers - first))


def entering_for(budget: float, keep_ratio: float, first: int, layers: int) -> float:
    """Return m, where a selection after ``first`` layers keeps ``keep_ratio`` of what entered: r = keep_ratio * m.

    Raises:
        ConfigError: it would be more than all tokens.
    """
    check_share("budget", budget)
    entering = budget * layers / (first + keep_ratio * (layers - first))
    if entering > 1:
        raise ConfigError(
            f"a budget of {percent(budget, 1)} is not spent at keep_ratio={keep_ratio}: take a larger one"
        )
    return entering


def first_layers(config: PruneVidConfig, depth: Depth) -> int:
    """Return K of a config: the layers up to the one after which it first selects, all of them without stage 2."""
    return (*_layers_before(config, depth), depth.layers)[0]


def layer_shares(config: PruneVidConfig, depth: Depth, free: float = 1.0) -> tuple[list[float], bool]:
    """Return the share of the visual tokens that each layer sees, and whether it is exactly that.

    Else it is what it may be at most: see `budget_asked`. A selector that is asked for an average over layers has that
    average in each.

    Args:
        config: what is pruned.
        depth: of the model.
        free: what a cut leaves where what is seen decides, without a cap.
    """
    share, exact = _entering(config.merger)
    own, shares = config.selector, [share]
    if getattr(own, "averages", False) and getattr(own, "keep_ratio", None) is not None:
        return [share * own.keep_ratio] * depth.layers, exact
    before = _layers_before(config, depth)
    for step in range(len(before)):
        said = _left(config, step, shares[-1] / share)
        exact = exact and said is not None and getattr(own, "max_keep_ratio", None) is None
        shares.append(shares[-1] * (free if said is None else said))
    edges = (0, *before, depth.layers)
    return [
        each for each, (start, stop) in zip(shares, pairwise(edges), strict=True) for _ in range(start, stop)
    ], exact


def _layers_before(config: PruneVidConfig, depth: Depth) -> list[int]:
    """Say how many layers run before each cut."""
    own = config.selector
    if own is None:
        return []
    if getattr(own, "trained", False) and config.pruning_layer is None:
        return [depth.glimpse_layer + 1]
    layers = own.layers_for(depth.layers) if isinstance(own, MethodOptions) else getattr(own, "layers", None)
    layers = layers if isinstance(layers, (tuple, list)) else (layers,)
    return [resolve_layer(at - 1 if isinstance(at, int) else at, depth.layers) + 1 for at in layers]


def _entering(merger: Any) -> tuple[float, bool]:
    """Return the share that enters the decoder, and whether it is exactly that."""
    if merger is None:
        return 1.0, True
    share = getattr(merger, "cluster_ratio", getattr(merger, "keep_ratio", None))
    if share is None or getattr(merger, "keep_tokens", None) is not None:
        return 1.0, False
    return share, getattr(merger, "exact", False)


def _left(config: PruneVidConfig, step: int, came: float) -> float | None:
    """Return what a cut leaves of what comes to it, a ``came`` part of what entered; None: what is seen decides."""
    own = config.selector
    if config.fixed_keep_ratio is not None and getattr(own, "most_layers", 1) == 1:
        return config.fixed_keep_ratio
    if getattr(own, "max_keep_ratio", None) is not None:
        return float(own.max_keep_ratio)
    size = round(_MANY * came)
    if getattr(own, "keep_tokens", None) is not None or not isinstance(own, MethodOptions):
        return None
    most = own.most(SimpleNamespace(blocks=(SimpleNamespace(kind="video", start=0, stop=size),)), step)
    return None if most is None else most / size


# ---- the configs that spend a budget


def fastv_config(budget: float, depth: Depth) -> PruneVidConfig:
    """FastV at a budget: everything through the first 2 layers (1 of a shallow model), then what is left of it.

    Raises:
        ConfigError: the model is so shallow that the first layers alone spend the budget.
    """
    first = FASTV_LAYERS if depth.layers >= _SHALLOW else 1
    kept = kept_for(budget, first, depth.layers)
    return PruneVidConfig(enable_stage1=False, selector="fastv", pruning_layer=first - 1, keep_ratio=kept)


def prunevid_config(budget: float, depth: Depth) -> PruneVidConfig:
    """PruneVid with the paper's keep_ratio and layer, clustered so hard that the budget is an upper bound.

    What looks alike over time is merged on top of that, so how far below a video stays is decided by what it shows.
    Small groups are clustered too, unlike in the authors' code, or the bound would not hold; each leaves one token.
    """
    paper = PruneVidConfig()
    entering = entering_for(budget, paper.keep_ratio, first_layers(paper, depth), depth.layers)
    return paper.replace(cluster_ratio=entering, min_cluster_tokens=_ALL_GROUPS)


def before_decoder(merger: str, budget: float) -> PruneVidConfig:
    """Stage 1 alone at a budget: all layers see the same tokens, so that what enters is the budget.

    Of merger "prunevid" it is an upper bound, as in `prunevid_config`.
    """
    config = get_stage1_only_config().replace(merger=merger, cluster_ratio=budget, merge_images=True)
    return config.replace(min_cluster_tokens=_ALL_GROUPS) if config.has("min_cluster_tokens") else config


def budget_asked(config: PruneVidConfig, depth: Depth) -> tuple[float, bool]:
    """Return the mean over layers that a config asks for, and whether it is met exactly.

    Else it is what it may be at most: a video decides, and one whose groups are small can exceed even that, since each
    leaves a token and ``min_cluster_tokens`` may leave them whole.
    """
    shares, exact = layer_shares(config, depth)
    return fmean(shares), exact
