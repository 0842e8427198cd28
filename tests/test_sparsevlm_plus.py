"""SparseVLM+: budgets of its table, what it keeps, and what it asks for."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.config.method_options import SparseVLMPlusOptions
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.forward.plan import Plan, Step, compile_plan
from prunevid_qwen.needs import Evidence
from prunevid_qwen.stage2_select import SparseVLM, SparseVLMPlus
from tests.method_reference import layout_of
from tests.schedule_layouts import evidence, places_of, several_images, widths


def test_it_keeps_the_best_and_drops_one_at_least() -> None:
    score = torch.rand(20, generator=torch.Generator().manual_seed(1))
    for kept, left in ((6, 6), (99, 19), (0.25, 5), (0.01, 1)):
        seen = Evidence(layout_of(2, 20, 3), score[:, None], score[:0, None], score.log())
        step = SparseVLMPlus(kept=(kept, 2, 2)).plan(seen)
        assert step.is_selection and torch.equal(step.rep, score.argsort(descending=True)[:left].sort().values)
    one = Evidence(layout_of(0, 1, 1), torch.ones(1, 2), torch.ones(0, 2), torch.zeros(1))
    assert SparseVLMPlus().plan(one).is_identity


def test_equal_scores_go_to_the_first() -> None:
    seen = Evidence(layout_of(0, 8, 1), torch.ones(8, 2), torch.ones(0, 2), torch.zeros(8))
    assert SparseVLMPlus(kept=(3, 2, 1)).plan(seen).rep.tolist() == [0, 1, 2]


def test_raters_are_sparsevlms() -> None:
    visual, text = torch.eye(4)[:2].repeat(3, 1), torch.tensor([[3.0, 0, 0, 0], [0, 0, 3.0, 0], [0, 3.0, 0, 0]])
    seen = Evidence(layout_of(0, 6, 3), visual, text)
    assert SparseVLMPlus().prepare(seen).tolist() == SparseVLM().prepare(seen).tolist() == [True, False, True]


@pytest.mark.parametrize(("options", "average"), [
    (SparseVLMPlusOptions(), 206.75), (SparseVLMPlusOptions(128), 144.1), (SparseVLMPlusOptions(96), 113.9),
    (SparseVLMPlusOptions(64), 81.8),
], ids=str)  # fmt: skip
def test_averages_are_those_known_of_the_papers_models(options: Any, average: float) -> None:
    assert places_of(options, 32) == (2, 6, 15) and places_of(options, 28) == (2, 5, 13)
    seen = widths(options, (576,), 32)
    assert sum(row[0] for row in seen) / 32 == pytest.approx(average, abs=0.05)


@pytest.mark.parametrize("depth", [8, 28])
def test_a_share_is_the_average_over_layers(depth: int) -> None:
    for share in (0.3, 0.5, 0.83, 0.97):
        for n in (29, 1001):
            average = sum(row[0] for row in widths(SparseVLMPlusOptions(keep_ratio=share), (n,), depth)) / depth
            assert share * n - 3 <= average <= share * n + 1e-6, (share, n)
    assert widths(SparseVLMPlusOptions(keep_ratio=1.0), (29, 3), 8) == [[29, 3]] * 8
    averages = widths(SparseVLMPlusOptions(keep_tokens=192), (576, 100), 32)
    assert 190 <= sum(row[0] for row in averages) / 32 <= 192 and {row[1] for row in averages} == {100}
    assert SparseVLMPlusOptions(keep_ratio=0.5).most(several_images((9,))[0]) is None


@pytest.mark.parametrize("options", [
    SparseVLMPlusOptions(), SparseVLMPlusOptions(64), SparseVLMPlusOptions(kept=(0.9, 50, 0.1)),
    SparseVLMPlusOptions(kept=(300, 300, 3)),
], ids=str)  # fmt: skip
def test_no_cut_leaves_more_than_it_says_it_may(options: SparseVLMPlusOptions) -> None:
    for sizes in ((576,), (7, 1, 100), (1001, 3)):
        seen = widths(options, sizes, 32)
        for step, layer in enumerate((3, 7, 16)):
            most = options.most(several_images(tuple(seen[layer - 1]))[0], step)
            assert most is not None and sum(seen[layer]) <= most <= sum(seen[layer - 1])
        first = options.most(several_images(sizes)[0])
        assert first == sum(seen[3])


def test_each_image_has_its_own_budget() -> None:
    layout, hidden = several_images((40, 8))
    numbers, reducer = torch.Generator().manual_seed(3), SparseVLMPlus(kept=(0.5, 0.25, 0.1))
    step = reducer.plan(evidence(reducer, layout, hidden, numbers, 0, (40, 8), (), 0))
    assert [block.stop - block.start for block in layout.apply(step)[0].blocks] == [20, 4]


@pytest.mark.parametrize("options", [
    {"retained_tokens": 100}, {"kept": (3, 2)}, {"kept": (9, 9, 0)}, {"kept": (9, 9, 9), "keep_ratio": 0.5},
    {"retained_tokens": 64, "keep_tokens": 9}, {"priority_heads": 0}, {"priority_heads": 1.0}, {"recycle": 0.1},
    {"priority_heads": True}, {"priority_heads": "half"}, {"layers": (1, 2)}, {"keep_ratio": 0.5, "layers": (1, 2)},
], ids=str)  # fmt: skip
def test_contradictions_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        PruneVidConfig(selector="sparsevlm_plus", **{f"selector.{name}": value for name, value in options.items()})


def test_a_plan_by_hand_is_held_to_the_schedule() -> None:
    for by, count in ((SparseVLMPlus(), 2), (SparseVLMPlus(keep_ratio=0.5), 2), (SparseVLMPlus(keep_ratio=0.05), 3)):
        with pytest.raises(ConfigError):
            compile_plan(Plan(tuple(Step(at, by) for at in range(count))), 6)


def test_evidence_that_was_not_gathered_is_missed() -> None:
    layout, hidden = several_images((8,))
    with pytest.raises(ValueError, match="needs"):
        SparseVLMPlus().plan(Evidence(layout, hidden, hidden[:0]))


@pytest.mark.parametrize("options", [
    {}, {"kept": (300, 0.5, 9)}, {"keep_ratio": 0.3}, {"priority_heads": 3}, {"kept": (0.3,), "layers": (4,)},
], ids=str)  # fmt: skip
def test_options_are_written_and_read(options: dict[str, Any]) -> None:
    config = PruneVidConfig(selector="sparsevlm_plus", **options)
    assert config.compress_cache and config == PruneVidConfig.from_json(config.to_json()) == config.replace()
    assert config == PruneVidConfig.from_record(config.flat())
