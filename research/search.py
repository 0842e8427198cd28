"""The search for a better `recommended`, as data, and its rule, which was committed before anything was asked.

Grid: a door step and an inner cut, or one of both, `grid()`. The lever that reaches a budget is the door's share where
there is a door that has one, so that one number turns a whole config; ``keep_ratio`` otherwise. `distinct` is ours. Its
form and the four pairs of reaches below were found on videos of their own, `DRAFT_SEED`, with about fifty drafts.

Rule:

1. Every config is asked on seeds A, on both toys, at 10 % and at 5 % of layer-averaged tokens. Its score is the mean
   over the toys and budgets of the points lost to the unpruned model. A config that misses a budget on any kind of
   video on any toy has no score.
2. The three best scores are confirmed, at most one of each triple of door, selector and layer. They are asked on
   seeds B, which nothing has seen, with `recommended`, `random` and `uniform` beside them, at 25, 10 and 5 %.
3. One of them replaces `recommended` if on both toys the mean of its paired differences to `recommended` at 10 % and
   5 % is above 0 with its whole interval, at a level corrected for three tries (1 - 0.05 / 3, bootstrap over whole
   videos); if at 25 % its interval does not lie below 0 on either toy; and if its time to the first token is not longer
   at equal layer-averaged tokens on the CPU shape 7b_small at 32 frames (by more than 3 %, medians of one run). Of
   several the one with the best mean difference.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

from prunevid_qwen.config.option_classes import options_class
from prunevid_qwen.config.presets import get_recommended_2026_11_config
from prunevid_qwen.evaluation.shapes.methods import UNPRUNED, AccuracyRun, Method, changes, methods_called
from prunevid_qwen.moving_shapes import FIRST_HELD_OUT_SEED
from prunevid_qwen.reducer import says

SEARCH_SEED = FIRST_HELD_OUT_SEED + 8_000_000
"""Seeds A: where the videos of the search begin."""
DRAFT_SEED = FIRST_HELD_OUT_SEED + 8_500_000
"""Where the 24 videos of the drafts of `distinct` begin."""
CONFIRM_SEED = FIRST_HELD_OUT_SEED + 9_000_000
"""Seeds B: where those of the confirmation begin."""

SEARCH_BUDGETS, CONFIRM_BUDGETS = (0.10, 0.05), (0.25, 0.10, 0.05)
SEARCH_VIDEOS, CONFIRM_VIDEOS = 24, 200
SEARCH_CALIBRATION, CONFIRM_CALIBRATION = 8, 16
"""Videos of each kind on which a config is fitted to a budget."""

MOST, TRIES = 200, 3
LAYERS = (0.1, 0.25, 0.5)
"""Shares of the depth after which an inner cut acts: layers 0, 2 and 4 of 8; 2, 7 and 14 of 28."""

DOORS = ("cdpruner", "evs", "flashvid", "holitom", "simplecluster", "vidcom2", "visionzip", "vscan")
REACHES = ((4.0, 0.5), (4.0, 0.25), (8.0, 0.5), (2.0, 0.5))
"""Pairs of ``time_reach`` and ``space_reach`` of `distinct`; the first is its default."""
_OFF = {"enable_cache_compression": False}


def inner(selector: str, layer: float | None, keep: float | None) -> dict[str, Any]:
    """Return the options of a cut: after a share of the depth, or at the method's own layers; keep None is a lever."""
    share = {} if keep is None else {"keep_ratio": keep}
    needs = says(options_class("selector", selector)(), 2).lever_needs
    return {"selector": selector, "pruning_layer": layer, **share, **needs}


def _door(merger: str, selector: str, layer: float | None, keep: float) -> Method:
    """A door step whose share is the lever, and a cut that keeps a fixed share of what came in."""
    options = options_class("merger", merger)()
    where = "" if layer is None else f" after {layer}"
    lever = says(options, 1).lever or "cluster_ratio"
    return Method(
        f"{merger} + {selector} {keep}{where}",
        {"merger": merger, **says(options, 1).lever_needs, **inner(selector, layer, keep)},
        levers=(lever,),
    )


def grid() -> Iterator[Method]:
    """List the configs of the search, in the order of their tables."""
    for selector, layer, keep in product(("dpp", "prunevid", "dart"), (0.25, 0.5), (0.35, 0.5, 0.7)):
        yield _door("distinct", selector, layer, keep)
    for selector, layer, keep in product(("dpp", "prunevid"), LAYERS, (0.35, 0.5, 0.7)):
        yield _door("divprune", selector, layer, keep)
    for selector in ("dart", "fastv", "vscan"):
        yield _door("divprune", selector, 0.25, 0.5)
    for selector in ("pyramiddrop", "sparsevlm", "sparsevlm_plus"):
        yield _door("divprune", selector, None, 0.5)
    for merger, layer in product(DOORS, (0.1, 0.5)):
        yield _door(merger, "dpp", layer, 0.5)
    for merger, layer, keep in product(("rlt", "prunevid"), (0.1, 0.25), (0.25, 0.5)):
        yield _door(merger, "dpp", layer, keep)
    for selector, layer in product(("dpp", "prunevid", "dart"), LAYERS):
        if (selector, layer) != ("dpp", 0.1):  # which is `recommended`
            runs = {"merger": "rlt", **inner(selector, layer, None)}
            yield Method(f"rlt 0.8 + {selector} after {layer}", runs, levers=("keep_ratio",))
        alone = {"enable_stage1": False, **inner(selector, layer, None)}
        yield Method(f"{selector} after {layer}", alone, levers=("keep_ratio",))
    for merger in ("divprune", *DOORS, "prunevid", "rlt"):
        needs = says(options_class("merger", merger)(), 1).lever_needs
        yield Method(merger, {"enable_stage2": False, **_OFF, "merger": merger, **needs})
    for time, space in REACHES:
        reach = {"merger.time_reach": time, "merger.space_reach": space}
        yield Method(f"distinct {time:g}/{space:g}", {"enable_stage2": False, **_OFF, "merger": "distinct", **reach})


def beside() -> list[Method]:
    """Return the curves that are asked beside every config."""
    current = Method("recommended", changes(get_recommended_2026_11_config()), levers=("keep_ratio",))
    return [*methods_called([UNPRUNED, "random", "uniform"]), current]


def search_run(model: str, videos: int = SEARCH_VIDEOS) -> AccuracyRun:
    """Return the run of the search on one toy."""
    methods = (*beside(), *grid())
    return AccuracyRun(
        methods, SEARCH_BUDGETS, videos=videos, first_seed=SEARCH_SEED, model=model, random_seeds=1,
        calibration_videos=SEARCH_CALIBRATION,
    )  # fmt: skip


def confirm_run(model: str, names: list[str], videos: int = CONFIRM_VIDEOS) -> AccuracyRun:
    """Return the run that confirms configs of these names on one toy."""
    chosen = {method.name: method for method in grid()}
    methods = (*beside(), *(chosen[name] for name in names))
    return AccuracyRun(
        methods, CONFIRM_BUDGETS, videos=videos, first_seed=CONFIRM_SEED, model=model, random_seeds=1,
        calibration_videos=CONFIRM_CALIBRATION,
    )  # fmt: skip
