"""SparseVLM: who rates, how many tokens a rank leaves, and what becomes of the recycled ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.config.schedules import RANK
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.forward.plan import Plan, Step, compile_plan
from prunevid_qwen.kernels.dpc_knn import reference as clusters_of
from prunevid_qwen.needs import Evidence
from prunevid_qwen.reducer import merges
from prunevid_qwen.stage2_select import PyramidDrop, SparseVLM
from prunevid_qwen.tokens import Block, TokenLayout, TokenMap
from tests.method_reference import layout_of
from tests.schedule_layouts import evidence, several_images

# ---- SparseVLM


def chosen(reducer: SparseVLM, score: Tensor, hidden: Tensor | None = None, step: int = 0) -> TokenMap:
    """What it does with one image by the mean attention [N] of one rater."""
    n = score.numel()
    layout, states = layout_of(2, n, 2), torch.arange(n)[:, None].float() if hidden is None else hidden
    rows = torch.stack([score, score.flip(0)]).log()
    note = torch.tensor([True, False])
    return reducer.plan(Evidence(layout, states, states[:0], rows, note=note, step=step))


def falling(n: int) -> Tensor:
    return torch.linspace(0.9, 0.1, n)


def three(**options: Any) -> SparseVLM:
    return SparseVLM(**{"kept": (4, 3, 2), **options})


def test_recycled_tokens_are_means_after_the_kept_ones() -> None:
    score = falling(50)[torch.randperm(50, generator=torch.Generator().manual_seed(1))]
    best = score.argsort(descending=True, stable=True)
    step = chosen(three(), score)
    assert torch.equal(step.rep[:4], best[:4].sort().values) and step.n_out == 4 + 2
    pool = (step.target >= 4).nonzero()[:, 0]  # int(0.3 * 46) + 1 = 14, in int(14 / 10) + 1 clusters
    assert torch.equal(pool, best[4:18].sort().values)
    assert int((step.target >= 0).sum()) == 18
    states = torch.randn(50, 3, generator=torch.Generator().manual_seed(2))
    made = chosen(three(), score, states).mean(states)
    target = chosen(three(), score, states).target
    for group in (4, 5):
        torch.testing.assert_close(made[group], states[target == group].mean(0))


def test_a_recycled_token_stands_at_its_clusters_centre() -> None:
    near = torch.tensor([0.0, 0.4, 1.0, 0.55, 0.6, 10.0, 10.3, 11.0, 10.45, 10.2])[:, None]
    step = chosen(SparseVLM(kept=(10, 9, 8), recycle=1.0), falling(20), torch.cat([torch.full((10, 1), 5.0), near]))
    labels, centres = clusters_of(near, 2, 2)
    assert step.rep[10:].tolist() == (centres + 10).tolist()
    assert torch.equal(step.target[10:], labels + 10)
    assert sorted(labels.tolist()) == [0] * 5 + [1] * 5


def test_one_token_is_always_cut_and_recycled() -> None:
    step = chosen(three(kept=(99, 99, 99)), falling(6).flip(0))
    assert step.n_out == 6 and step.target.tolist() == [5, 0, 1, 2, 3, 4] and step.rep.tolist() == [1, 2, 3, 4, 5, 0]
    assert chosen(three(kept=(99, 99, 99), recycle=0.0), falling(6)).rep.tolist() == [0, 1, 2, 3, 4]
    for recycle in (0.0, 0.3):
        assert chosen(three(recycle=recycle), falling(1)).is_identity


def test_raters_resemble_the_picture() -> None:
    visual, text = torch.eye(4)[:2].repeat(3, 1), torch.tensor([[3.0, 0, 0, 0], [0, 0, 3.0, 0], [0, 3.0, 0, 0]])
    layout = layout_of(0, 6, 3)
    assert SparseVLM().prepare(Evidence(layout, visual, text)).tolist() == [True, False, True]
    assert SparseVLM().prepare(Evidence(layout, visual, text[:1])).tolist() == [True]  # none stands out: all rate
    assert SparseVLM().prepare(Evidence(layout, visual, text[1:2].repeat(3, 1))).tolist() == [True] * 3


def test_who_does_not_rate_is_not_heard() -> None:
    kept = chosen(three(recycle=0.0), falling(20)).rep
    assert kept.tolist() == [0, 1, 2, 3]  # the other row would keep the last ones


@pytest.mark.parametrize("budget", RANK)
def test_a_rank_is_scaled(budget: int) -> None:
    """The rows of three raters are two different ones: rank 2, times scale, plus bias, of 576."""
    scale, bias = RANK[budget]
    reducer = SparseVLM(schedule="rank", retained_tokens=budget, recycle=0.0)
    for n in (576, 288, 1000):
        rows = torch.rand(2, n, generator=torch.Generator().manual_seed(n))
        rows = torch.stack([rows[0], rows[1], rows[0], torch.rand(n)])
        layout, note = layout_of(0, n, 4), torch.tensor([True, True, True, False])
        step = reducer.plan(Evidence(layout, torch.zeros(n, 2), torch.zeros(0, 2), rows.log(), note=note))
        assert step.n_out == max(1, int((2 * scale + bias) * n / 576))


def test_each_image_has_its_own_budget() -> None:
    layout, hidden = several_images((40, 8))
    numbers = torch.Generator().manual_seed(3)
    reducer = SparseVLM(kept=(0.5, 0.25, 0.1))
    step = reducer.plan(evidence(reducer, layout, hidden, numbers, 0, (40, 8), (), 0))
    left = layout.apply(step)[0]
    assert [block.stop - block.start for block in left.blocks] == [20 + 1, 4 + 1]


def test_recycled_tokens_stay_in_their_run() -> None:
    """A video in two runs of the sequence with text between them: no token crosses it."""
    n, run = 40, 20
    visual = torch.cat([torch.arange(2, 2 + run), torch.arange(5 + run, 5 + n)])
    question, stratum = torch.arange(5 + n, 8 + n), torch.zeros(n, dtype=torch.long)
    layout = TokenLayout(8 + n, visual, question, (Block("video", (2, 4, 5), 0, n),), stratum, split=True)
    score = torch.rand(3, n, generator=torch.Generator().manual_seed(4))
    states = torch.randn(n, 4, generator=torch.Generator().manual_seed(5))
    seen = Evidence(layout, states, states[:0], score.log(), note=torch.ones(3, dtype=torch.bool))
    step = three(kept=(9, 8, 7), recycle=1.0).plan(seen)
    left = layout.apply(step)[0]
    assert left.visual.numel() == 9 + 4 and left.length == 8 + 13
    first = step.rep < run
    assert bool(first[: int(first.sum())].all()), "the groups of the first run come first"
    kept = score.mean(0).argsort(descending=True)[:9]
    for of_run in (first, ~first):
        made = ~torch.isin(step.rep[of_run], kept)
        assert bool((made.int().diff() >= 0).all()) and bool(made.any()), "recycled tokens stand after the kept ones"


def test_evidence_that_was_not_gathered_is_missed() -> None:
    layout, hidden = several_images((8,))
    bare = Evidence(layout, hidden, hidden[:0])
    for reducer in (PyramidDrop(), SparseVLM()):
        with pytest.raises(ValueError, match=r"needs|prepared"):
            reducer.plan(bare)


# ---- caches


def test_recycling_leaves_caches_whole() -> None:
    assert PruneVidConfig(selector="sparsevlm").compress_cache is False
    assert PruneVidConfig().replace(selector="sparsevlm").compress_cache is False  # as the command line does
    assert PruneVidConfig(selector="sparsevlm").replace(selector="fastv").compress_cache is True
    assert PruneVidConfig(selector="sparsevlm", recycle=0.0).compress_cache is True
    assert PruneVidConfig(selector="sparsevlm").replace(recycle=0.0).compress_cache is True
    assert PruneVidConfig(compress_cache=False).replace(selector="pyramiddrop").compress_cache is False
    assert PruneVidConfig.from_dict({"selector": "sparsevlm"}).compress_cache is False
    for asked in (
        lambda: PruneVidConfig(selector="sparsevlm", compress_cache=True),
        lambda: PruneVidConfig().replace(selector="sparsevlm", enable_cache_compression=True),
        lambda: PruneVidConfig.from_dict({"format": 2, "selector": {"name": "sparsevlm"}, "compress_cache": True}),
    ):
        with pytest.raises(ConfigError, match="compress_cache"):
            asked()
    by = SparseVLM()
    with pytest.raises(ConfigError, match="compress"):
        compile_plan(Plan(tuple(Step(at, by) for at in (0, 1, 2))), 6)
    assert merges(by) and not merges(SparseVLM(recycle=0.0)) and not merges(PyramidDrop())
