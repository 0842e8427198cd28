"""VisionZip, VScan, DivPrune and EVS over every family: recomputing gives the same, and no memory grows with N * N."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.config.option_classes import names_in, options_class
from prunevid_qwen.contract import only_what_it_asks_for
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.forward.hooks import pruned
from prunevid_qwen.kernels import cosines
from prunevid_qwen.reducer import made_by
from prunevid_qwen.stage1_merge import distinct, divprune, evs
from tests.door_samples import shown
from tests.families import FAMILIES, crossed, family_inputs, family_model, member
from tests.recomputing import recomputed
from tests.test_family_oracles import generate
from tests.tolerances import LOGITS, close

METHODS = ("visionzip", "vscan", "divprune", "distinct", "evs")
WITHOUT_VIDEOS = ("llava", "llava_next", "internvl")
OVER_FAMILIES = pytest.mark.parametrize(
    ("method", "family"),
    [
        pair
        for pair in crossed(METHODS, "visionzip")
        if not (pair.values[0] == "evs" and pair.values[1] in WITHOUT_VIDEOS)
    ],
)


def config(method: str, **options: Any) -> PruneVidConfig:
    own = {name: value for name, value in options.items() if name in names_in(options_class("merger", method))}
    return PruneVidConfig(merger=method, enable_stage2=False, enable_cache_compression=False, **own)


@OVER_FAMILIES
def test_recomputing_gives_the_same(method: str, family: str) -> None:
    """A batch with several videos and images, and a text: each row by itself, with the tokens that its budget says."""
    own = config(method, cluster_ratio=0.4)
    with pruned(family_model(family), own) as trace:
        out = generate(family_model(family), family_inputs(family, "batch"))
    for sample in trace.samples:
        assert not sample.tokens or sample.after_stage1 < sample.tokens
    for b, logits in enumerate(recomputed(FAMILIES[family].cases["batch"], out.sequences, trace, family)):
        close(torch.stack(out.logits, 1)[b], logits, LOGITS, msg=lambda m, b=b: f"sample {b}: {m}")


@OVER_FAMILIES
def test_a_row_is_decided_as_it_is_alone(method: str, family: str) -> None:
    own = config(method, cluster_ratio=0.4)
    with pruned(family_model(family), own) as trace:
        generate(family_model(family), family_inputs(family, "batch"), 1)
    together = [sample.merged for sample in trace.samples]
    for b, merged in enumerate(together):
        with pruned(family_model(family), own) as trace:
            generate(family_model(family), member(family, "batch", b), 1)
        alone = trace.samples[0].merged
        assert (merged is None) == (alone is None)
        assert merged is None or alone is None or torch.equal(merged.target, alone.target)


@pytest.mark.parametrize("family", WITHOUT_VIDEOS)
def test_evs_is_refused_where_all_is_images(family: str) -> None:
    with pytest.raises(ConfigError, match="evs"), pruned(family_model(family), config("evs")):
        pass


# ---- memory


class _Largest(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        made = out if isinstance(out, (tuple, list)) else (out,)
        self.numbers = max(self.numbers, *(each.numel() for each in made if isinstance(each, Tensor)), 0)
        return out


@contextmanager
def largest() -> Iterator[_Largest]:
    with _Largest() as mode:
        yield mode


@pytest.mark.parametrize("method", METHODS)
def test_nothing_is_as_large_as_tokens_times_tokens(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for room in (divprune, distinct):
        monkeypatch.setattr(room, "CANDIDATES", 64)
    for room in (cosines, evs):
        monkeypatch.setattr(room, "PIECE_BYTES", 2**14)
    reducer = made_by(config(method, cluster_ratio=0.2).merger, 1)
    grid, size = (60, 4, 5), 1200
    seen = shown(grid, torch.randn(size, 8, generator=torch.Generator().manual_seed(0)))
    with largest() as mode:
        left = reducer.plan(only_what_it_asks_for(reducer, seen)).n_out
    assert left == 240
    assert mode.numbers <= 16 * size, "a few numbers for each token"
