"""Methods of several cuts: where they stand at other depths, averages over layers as budgets, SparseVLM's recycling."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from prunevid_qwen.cli import main
from prunevid_qwen.config import PruneVidConfig, PyramidDropOptions, SparseVLMOptions, get_config
from prunevid_qwen.config.methods import OracleOptions
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.evaluation.shapes.methods import Method
from prunevid_qwen.forward.hooks import pruned
from prunevid_qwen.forward.plan import Plan, Step, compile_plan
from prunevid_qwen.moving_shapes.conditions import CONDITIONS
from prunevid_qwen.needs import Evidence, Needs
from prunevid_qwen.reducer import register
from prunevid_qwen.stage2_select import PyramidDrop, SparseVLM
from prunevid_qwen.tokens import TokenMap
from tests.command_configs import configs_of
from tests.models import MIXED, ONE_VIDEO, make_inputs, tiny_model
from tests.schedule_layouts import places_of, several_images, widths

# ---- where cuts stand


@pytest.mark.parametrize(("options", "depth", "layers"), [
    (PyramidDropOptions(), 32, (8, 16, 24)), (PyramidDropOptions(), 28, (7, 14, 21)),
    (PyramidDropOptions(), 36, (9, 18, 27)), (PyramidDropOptions(), 6, (2, 3, 5)), (PyramidDropOptions(), 4, (1, 2, 3)),
    (SparseVLMOptions(), 32, (3, 7, 16)), (SparseVLMOptions(), 28, (3, 6, 14)), (SparseVLMOptions(), 4, (1, 2, 3)),
    (SparseVLMOptions(schedule="rank"), 32, (3, 7, 16, 20)), (SparseVLMOptions(layers=(4, 5, 9)), 32, (4, 5, 9)),
    (PyramidDropOptions(layers=(0.25, 0.5), ratios=(0.5, 0.1)), 28, (8, 15)),
], ids=str)  # fmt: skip
def test_layers_scale_with_the_depth(options: Any, depth: int, layers: tuple[int, ...]) -> None:
    assert places_of(options, depth) == tuple(layer - 1 for layer in layers)


@pytest.mark.parametrize(("options", "depth", "said"), [
    (PyramidDropOptions(), 3, "3"), (SparseVLMOptions(schedule="rank"), 4, "4"),
    (PyramidDropOptions(keep_ratio=0.24), 28, "25"), (SparseVLMOptions(keep_ratio=0.05), 28, "layers"),
    (PyramidDropOptions(layers=(7, 28), ratios=(0.5, 0.2)), 28, "27"),  # the next layer's queries: there is none
    (PyramidDropOptions(layers=(0.5, 6), ratios=(0.5, 0.2)), 28, "order"),
], ids=str)  # fmt: skip
def test_what_a_depth_has_no_room_for_is_refused(options: Any, depth: int, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        places_of(options, depth)


@pytest.mark.parametrize("steps", [
    (Step(1, PyramidDrop()),), (Step(1, SparseVLM(recycle=0.0)), Step(2, SparseVLM(recycle=0.0))),
    (Step(1, PyramidDrop(keep_ratio=0.1)),), (Step(0, SparseVLM(keep_ratio=0.5)), Step(1, SparseVLM(keep_ratio=0.5))),
], ids=str)  # fmt: skip
def test_a_plan_by_hand_is_held_to_the_schedule(steps: tuple[Step, ...]) -> None:
    by = steps[0].by
    with pytest.raises(ConfigError):
        compile_plan(Plan(tuple(Step(step.at, by) for step in steps)), 6)


# ---- the papers' schedules


@pytest.mark.parametrize(("options", "average"), [
    (PyramidDropOptions(), 270.0), (SparseVLMOptions(), 206.5), (SparseVLMOptions(retained_tokens=128), 145.4),
    (SparseVLMOptions(retained_tokens=96), 114.1), (SparseVLMOptions(retained_tokens=64), 82.2),
], ids=str)  # fmt: skip
def test_averages_are_those_known_of_the_papers_models(options: Any, average: float) -> None:
    seen = widths(options, (576,), 32)
    assert sum(row[0] for row in seen) / 32 == pytest.approx(average, abs=0.05)


def test_a_table_is_a_share_of_what_came() -> None:
    seen = widths(SparseVLMOptions(recycle=0.0), (1152, 288), 32)
    assert [seen[3], seen[7], seen[16]] == [[600, 150], [400, 100], [220, 55]]
    seen = widths(SparseVLMOptions(kept=(0.5, 100, 0.1), recycle=0.0), (1000, 120), 32)
    assert [seen[3], seen[7], seen[16]] == [[500, 60], [100, 59], [99, 12]]  # one is always cut


@pytest.mark.parametrize("ratios", [(0.5, 0.25, 0.125), (0.97, 0.6, 0.01), (1.0, 0.33, 0.32)], ids=str)
def test_no_cut_leaves_more_than_it_says_it_may(ratios: tuple[float, ...]) -> None:
    options = PyramidDropOptions(ratios=ratios)
    for sizes in ((576,), (7, 1, 100), (1001, 3)):
        seen, layout = widths(options, sizes, 32), several_images(sizes)[0]
        for step, layer in enumerate((8, 16, 24)):
            most = options.most(several_images(tuple(seen[layer - 1]))[0], step)
            assert most is not None and sum(seen[layer]) <= most <= sum(seen[layer - 1])
        assert options.most(layout) == sum(max(1, int(size * ratios[0])) for size in sizes)
    assert PyramidDropOptions(keep_ratio=0.5).most(layout) is None and SparseVLMOptions().most(layout) is None


# ---- budgets as an average


@pytest.mark.parametrize("options", [PyramidDropOptions(), SparseVLMOptions(), SparseVLMOptions(recycle=0.0)], ids=str)
@pytest.mark.parametrize("depth", [8, 28, 36])
def test_a_share_is_the_average_over_layers(options: Any, depth: int) -> None:
    for share in (0.3, 0.5, 0.83, 0.97):
        for n in (29, 128, 1001):
            seen = widths(replace(options, keep_ratio=share), (n,), depth)
            average = sum(row[0] for row in seen) / depth
            assert average <= share * n + 1e-6
            assert share * n - average <= 3, (share, n)  # each cut rounds, and a cluster more or less is made


def test_everything_and_the_papers_own_share() -> None:
    assert widths(PyramidDropOptions(keep_ratio=270 / 576), (576,), 32) == widths(PyramidDropOptions(), (576,), 32)
    for options in (PyramidDropOptions(keep_ratio=1.0), SparseVLMOptions(keep_ratio=1.0)):
        assert widths(options, (29, 3), 8) == [[29, 3]] * 8


@pytest.mark.parametrize("options", [PyramidDropOptions(), SparseVLMOptions()], ids=str)
def test_a_number_of_tokens_is_the_average_of_each_image(options: Any) -> None:
    seen = widths(replace(options, keep_tokens=192), (576, 400, 100), 32)
    averages = [sum(row[image] for row in seen) / 32 for image in range(3)]
    assert all(190 <= average <= 192 for average in averages[:2]) and averages[2] == 100
    with pytest.raises(ConfigError, match="576"):
        widths(replace(options, keep_tokens=50), (576,), 32)


@pytest.mark.parametrize("selector", ["pyramiddrop", "sparsevlm"])
@pytest.mark.parametrize("merger", [None, "uniform"])
def test_the_average_is_of_what_stage_1_left(selector: str, merger: str | None) -> None:
    config = PruneVidConfig(merger=merger, selector=selector, **{"selector.keep_ratio": 0.6})
    with torch.no_grad(), pruned(tiny_model(), config) as trace:
        tiny_model()(**make_inputs(MIXED))
    for row in trace.samples:
        if row.tokens:
            assert (row.after_stage1 < row.tokens) == (merger is not None)
            average = sum(row.widths(6)) / 6
            # a token less at each cut, of each video or image
            assert 0.6 * row.after_stage1 - 3 * len(row.blocks) <= average <= 0.6 * row.after_stage1 + 1e-6


def test_the_benchmark_asks_for_what_fits() -> None:
    method, condition = Method("it", {"merger": None, "selector": "pyramiddrop"}), next(iter(CONDITIONS.values()))
    assert method.settings(condition)[-1] == {"keep_ratio": 0.005}
    fits = [setting["keep_ratio"] for setting in method.settings(condition, lambda config: config.keep_ratio > 0.3)]
    assert fits[0] == 1.0 and fits[-1] == 0.305 and len(fits) == 140
    both = Method("it", {"selector": "pyramiddrop", "cluster_ratio": 1.0})
    pairs = both.settings(condition, lambda config: config.keep_ratio > 0.3)
    assert {pair["keep_ratio"] for pair in pairs if pair["cluster_ratio"] < 1} == {0.305}


# ---- several layers of somebody's method


@dataclass(frozen=True)
class StairsOptions:
    layers: tuple[int, ...] | None = (2, 4)


@dataclass(frozen=True)
class Stairs(StairsOptions):
    """Keeps all but one at each step, and writes down where it stood."""

    needs = Needs()

    def plan(self, seen: Evidence) -> TokenMap:
        STOOD.append((seen.step, seen.layer, seen.start, seen.entered, seen.steps_at, seen.depth))
        return TokenMap.keep(torch.arange(seen.hidden.shape[0] - 1), seen.hidden.shape[0])


STOOD: list[tuple[Any, ...]] = []


def test_somebodys_method_acts_several_times(registry: None) -> None:
    register("stairs", StairsOptions)(type("Stairs", (Stairs,), {"several": True, "__module__": __name__}))
    STOOD.clear()
    config = PruneVidConfig(merger=None, selector="stairs")
    with torch.no_grad(), pruned(tiny_model(), config) as trace:
        tiny_model()(**make_inputs(ONE_VIDEO))
    assert STOOD == [(0, 1, 80, (80,), (1, 3), 6), (1, 3, 80, (80,), (1, 3), 6)]
    assert [(each.at, each.name) for each in trace.samples[0].reductions] == [(1, "stairs"), (3, "stairs")]
    assert PruneVidConfig.from_json(config.replace(layers=(1, 3, 5)).to_json()).selector.layers == (1, 3, 5)


def test_a_method_that_does_not_say_so_acts_once(registry: None) -> None:
    register("stairs", StairsOptions)(Stairs)
    with pytest.raises(ConfigError, match="stairs"):
        compile_plan(PruneVidConfig(merger=None, selector="stairs"), 6)
    assert len(compile_plan(PruneVidConfig(merger=None, selector="stairs", layers=(2,)), 6).steps) == 1


# ---- options


@pytest.mark.parametrize("options", [
    {"ratios": (0.2, 0.5, 0.1)}, {"ratios": ()}, {"ratios": (0.5, 0.25)}, {"ratios": (50, 25, 12)},
    {"keep_ratio": 0.5, "keep_tokens": 9}, {"ratios": (0.4, 0.2, 0.1), "keep_ratio": 0.5}, {"layers": (8, 16)},
    {"keep_ratio": 1.5}, {"retained_tokens": 192},
], ids=str)  # fmt: skip
def test_pyramiddrops_contradictions_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        PruneVidConfig(selector="pyramiddrop", **options)


@pytest.mark.parametrize("options", [
    {"retained_tokens": 100}, {"schedule": "rank", "retained_tokens": 96}, {"schedule": "ranks"}, {"recycle": 1.5},
    {"kept": (3, 0, 1)}, {"kept": (3, 2)}, {"kept": (9, 9, 9), "keep_ratio": 0.5}, {"layers": (1, 2)},
    {"retained_tokens": 64, "keep_ratio": 0.5}, {"schedule": "rank", "keep_ratio": 0.5},
    {"keep_ratio": 0.5, "layers": (1, 2)}, {"schedule": "rank", "kept": (9, 9, 9)}, {"retained_tokens": [64]},
    {"layers": ()},
], ids=str)  # fmt: skip
def test_sparsevlms_contradictions_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        PruneVidConfig(selector="sparsevlm", **options)


@pytest.mark.parametrize("options", [
    {"selector": "pyramiddrop"}, {"selector": "pyramiddrop", "ratios": (0.5, 0.2), "layers": (2, 0.5)},
    {"selector": "pyramiddrop", "keep_ratio": 0.4}, {"selector": "pyramiddrop", "keep_tokens": 64},
    {"selector": "sparsevlm"}, {"selector": "sparsevlm", "kept": (300, 0.5, 9)},
    {"selector": "sparsevlm", "recycle": 0.0},
    {"selector": "sparsevlm", "schedule": "rank"}, {"selector": "sparsevlm", "keep_ratio": 0.3},
    {"selector": "sparsevlm", "recycle": 0.0, "compress_cache": False},
    {"selector": "pyramiddrop", "ratios": (0.3,), "layers": (4,)},
    {"selector": "sparsevlm", "kept": (0.3,), "layers": (4,)},
], ids=str)  # fmt: skip
def test_they_are_written_and_read(options: dict[str, Any]) -> None:
    config = PruneVidConfig(**options)
    plain = PruneVidConfig().flat()
    changes = {name: value for name, value in config.flat().items() if name not in plain or plain[name] != value}
    for again in (
        PruneVidConfig.from_dict(config.flat()), PruneVidConfig.from_record(config.flat()),
        PruneVidConfig.from_record(changes), PruneVidConfig.from_json(config.to_json()), config.replace(),
    ):  # fmt: skip
        assert again == config


def test_a_budget_of_one_cut_is_not_taken_over() -> None:
    one_cut = PruneVidConfig(keep_ratio=0.2, pruning_layer=3)
    assert one_cut.replace(selector="pyramiddrop").selector == PyramidDropOptions()
    several = one_cut.replace(selector="pyramiddrop", keep_ratio=0.4)
    assert several.replace(selector="sparsevlm").selector == SparseVLMOptions(keep_ratio=0.4)
    assert several.replace(selector="prunevid") == PruneVidConfig()


@pytest.mark.parametrize(("before", "changes", "after"), [
    (PyramidDropOptions((0.4, 0.3, 0.2)), {"keep_ratio": 0.3}, PyramidDropOptions(keep_ratio=0.3)),
    (PyramidDropOptions((0.4, 0.2), (2, 4)), {"keep_ratio": 0.6}, PyramidDropOptions(layers=(2, 4), keep_ratio=0.6)),
    (PyramidDropOptions(layers=3, keep_ratio=0.6), {"selector.ratios": (0.4, 0.2), "selector.layers": (2, 4)},
     PyramidDropOptions((0.4, 0.2), (2, 4))),
    (PyramidDropOptions((0.4, 0.2), (2, 4)), {"pruning_layer": 2, "selector.keep_tokens": 9},
     PyramidDropOptions(layers=3, keep_tokens=9)),
    (SparseVLMOptions(retained_tokens=64), {"keep_ratio": 0.3}, SparseVLMOptions(keep_ratio=0.3)),
    (SparseVLMOptions(kept=(9, 8, 7)), {"keep_tokens": 8}, SparseVLMOptions(keep_tokens=8)),
    (SparseVLMOptions(keep_ratio=0.3, recycle=0.1), {"retained_tokens": 64}, SparseVLMOptions("table", 64, None, 0.1)),
    (OracleOptions(), {"keep_ratio": 0.3, "keep_threshold": None}, OracleOptions(keep_ratio=0.3, keep_threshold=None)),
    (SparseVLMOptions(keep_ratio=0.3), {"recycle": 0.1}, SparseVLMOptions(keep_ratio=0.3, recycle=0.1)),
], ids=str)  # fmt: skip
def test_a_budget_takes_the_place_of_another(before: Any, changes: dict[str, Any], after: Any) -> None:
    assert PruneVidConfig(selector=before).replace(**changes) == PruneVidConfig(selector=after)


def test_a_schedules_layers_are_its_own() -> None:
    two = PruneVidConfig(selector=PyramidDropOptions(ratios=(0.5, 0.2), layers=(2, 4)))
    assert two.replace(selector="sparsevlm").selector == SparseVLMOptions()


@pytest.mark.parametrize(("words", "config"), [
    (["--selector", "sparsevlm"], PruneVidConfig(selector="sparsevlm")),
    (["--selector", "pyramiddrop", "--keep_ratio", "0.4"], PruneVidConfig(selector="pyramiddrop", keep_ratio=0.4)),
    (["--selector", "pyramiddrop", "--selector.layers", "8,16", "--selector.ratios", "0.5,0.25"],
     PruneVidConfig(selector=PyramidDropOptions(ratios=(0.5, 0.25), layers=(8, 16)))),
    (["--config", "aggressive", "--selector", "sparsevlm", "--selector.kept", "300,0.5,9", "--selector.recycle", "0"],
     get_config("aggressive").replace(selector=SparseVLMOptions(kept=(300, 0.5, 9), recycle=0.0))),
], ids=str)  # fmt: skip
def test_on_the_command_line(words: list[str], config: PruneVidConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = configs_of(monkeypatch)
    assert main(["demo", *words]) == 3
    assert seen == [config]


@pytest.mark.parametrize("words", [
    ["--selector", "sparsevlm", "--enable_cache_compression"],
    ["--selector", "pyramiddrop", "--selector.layers", "8,16"],
    ["--selector", "pyramiddrop", "--selector.recycle", "0.1"], ["--selector", "sparsevlm", "--retained_tokens", "9"],
], ids=str)  # fmt: skip
def test_wrong_ones_on_the_command_line(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert configs_of(monkeypatch) == [] and main(["demo", *words]) == 2
