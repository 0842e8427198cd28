"""What may be given as what to prune: a config, a plan or a list of methods, to `pruned` and to the class alike."""

from __future__ import annotations

import copy
import pickle
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from prunevid_qwen import (
    ConfigError,
    Evidence,
    Needs,
    Plan,
    PruneVidConfig,
    PruneVidQwen25VL,
    PruningNotApplied,
    Step,
    TokenMap,
    pruned,
)
from prunevid_qwen.config import FastVOptions, PruneVidMergeOptions, PruneVidOptions, UniformMergeOptions
from prunevid_qwen.forward.plan import compile_plan
from prunevid_qwen.forward.pruning import alike, plan_of
from prunevid_qwen.inputs.qwen.media import MediaReader
from prunevid_qwen.inputs.qwen.pixels import PixelOptions
from prunevid_qwen.moving_shapes import make_scene
from prunevid_qwen.moving_shapes.drawing import render
from prunevid_qwen.receipt import receipt
from prunevid_qwen.receipt.applied import check_applied
from prunevid_qwen.receipt.stages import layout_before
from prunevid_qwen.stage1_merge import Pool
from prunevid_qwen.stage2_select import FastV, Uniform
from prunevid_qwen.tokens import Block
from prunevid_qwen.tokens.trace import DOOR, Reduction, SampleTrace, Trace
from tests.models import CASES, make_inputs, tiny_model
from tests.pruned_generation import OUT

LAYERS = 6
ASKED = "what color is the circle ?"
MERGE = PruneVidMergeOptions(min_cluster_tokens=1)


@dataclass(frozen=True)
class Every:
    """Keeps every other token; says where it acts."""

    layers: Any = (2,)
    needs = Needs()

    def plan(self, seen: Evidence) -> TokenMap:
        n = seen.layout.visual.numel()
        return TokenMap.keep(torch.arange(0, n, 2), n)


class Averages(Every):
    merges = True


class Nowhere:
    def __repr__(self) -> str:  # part of a test's name, the same in every process
        return "Nowhere()"

    needs = Needs()

    def plan(self, seen: Evidence) -> TokenMap:
        raise AssertionError


class Trained(Nowhere):
    def __repr__(self) -> str:  # part of a test's name, the same in every process
        return "Trained()"

    needs = Needs(layers=(3,))


def places(what: Any) -> list[tuple[int, str]]:
    return [(step.at, step.name) for step in plan_of(what, LAYERS).steps]


# ---- which objects, and where they act


@pytest.mark.parametrize(("what", "where"), [
    ([], []), ([MERGE], [(DOOR, "prunevid")]), ((FastVOptions(), MERGE), [(DOOR, "prunevid"), (1, "fastv")]),
    ([PruneVidOptions(layers=(4,)), FastVOptions()], [(1, "fastv"), (3, "prunevid")]),
    ([FastV(layers=(4,)), Pool()], [(DOOR, "pool"), (3, "fastv")]),
    ([Every((2, 4)), Every(0.5)], [(1, "Every"), (3, "Every"), (3, "Every")]),
    ([Every(None)], [(2, "Every")]), ([Uniform(0.5)], [(2, "uniform")]), ([Trained()], [(2, "Trained")]),
    ([Step(4, Nowhere(), "mine"), FastVOptions()], [(1, "fastv"), (4, "mine")]),
], ids=str)  # fmt: skip
def test_a_list_of_methods_stands_where_each_of_them_acts(what: Any, where: list[tuple[int, str]]) -> None:
    if len({at for at, _ in where}) < len(where):
        with pytest.raises(ConfigError):
            plan_of(what, LAYERS)
        return
    assert places(what) == where


def test_a_list_is_the_config_of_the_same_methods() -> None:
    config = PruneVidConfig(merger=MERGE, selector=FastVOptions())
    assert alike(plan_of([FastVOptions(), MERGE], LAYERS), compile_plan(config, LAYERS))
    assert not alike(plan_of([FastVOptions(keep_ratio=0.1), MERGE], LAYERS), compile_plan(config, LAYERS))
    assert not alike(plan_of([FastVOptions()], LAYERS), compile_plan(config, LAYERS))
    assert alike(None, None) and not alike(None, Plan())


def test_caches_stay_whole_where_a_listed_method_may_merge_inside() -> None:
    assert plan_of([Every()], LAYERS).compress and not plan_of([Averages(), FastVOptions(layers=4)], LAYERS).compress


@pytest.mark.parametrize(("what", "named"), [
    ("fastv", "str"), (0.4, "float"), (FastVOptions(), "FastVOptions"), ([FastVOptions], "FastVOptions"),
    (["fastv"], "str"), ([PruneVidConfig()], "PruneVidConfig"), ([Every], "Every"), ([Nowhere()], "Nowhere"),
    ({"selector": "fastv"}, "dict"), ([Plan()], "Plan"), ([Every((9,))], "9"), ([Every(())], "()"),
], ids=str)  # fmt: skip
def test_others_are_refused_by_name(what: Any, named: str) -> None:
    with pytest.raises(ConfigError) as said:
        plan_of(what, LAYERS)
    assert named in str(said.value)


@pytest.mark.parametrize("by", [Every, FastVOptions(), None, "fastv"], ids=str)
def test_a_step_is_by_a_reducer(by: Any) -> None:
    with pytest.raises(ConfigError):
        Step(2, by)


def test_pruned_takes_a_list() -> None:
    model, inputs = tiny_model("sdpa"), make_inputs(CASES["mixed"])
    answers = []
    for what in (
        [FastVOptions(keep_ratio=0.4), MERGE],
        PruneVidConfig(merger=MERGE, selector=FastVOptions(keep_ratio=0.4)),
    ):
        with pruned(model, what) as trace:
            answers.append(model.generate(**inputs, max_new_tokens=3, do_sample=False, **OUT))
        assert [each.at for each in trace.samples[0].reductions] == [DOOR, 1]
    for one, other in zip(*(each.logits for each in answers), strict=True):
        assert torch.equal(one, other)
    with pruned(model, []) as trace:  # nothing, and not the paper's config
        model.generate(**inputs, max_new_tokens=1)
    assert trace.samples[0].tokens and not trace.samples[0].reductions


# ---- the class


@pytest.fixture(scope="module")
def clip() -> np.ndarray[Any, Any]:
    return np.stack(render(make_scene(1), 8))


@pytest.fixture(scope="module")
def model() -> PruneVidQwen25VL:
    made = PruneVidQwen25VL("bundled", [Pool(0.5), FastVOptions(keep_ratio=0.25)], device="cpu")
    small = PixelOptions(min_pixels=56 * 56, max_pixels=112 * 112)
    made.preprocessor.media = MediaReader(small, small)
    return made


def test_the_class_answers_under_a_list_as_under_the_config(model: PruneVidQwen25VL, clip: Any) -> None:
    config = PruneVidConfig(merger="pool", selector=FastVOptions(keep_ratio=0.25))
    one, other = (each.generate(clip, ASKED, max_new_tokens=3) for each in (model, model.with_config(config)))
    assert one["answer"] == other["answer"]
    for part in ("tokens", "stage1", "stage2", "stage3"):
        assert one["stats"][part] == other["stats"][part]
    assert one["stats"]["stage2"]["applied"] and one["stats"]["stage2"]["requested_ratio"] == 0.25
    assert model.config == PruneVidConfig(merger=None, selector=None, compress_cache=False) and model.plan is not None
    assert model.with_config(config).plan is None


def test_a_plan_reads_videos_with_the_defaults_and_its_own_chunks(model: PruneVidQwen25VL) -> None:
    twin = model.with_config(Plan((Step(1, Uniform(0.5)),), position_scheme="hf", vision_chunk_tokens=64))
    assert (twin.config.vision_chunk_tokens, twin.config.position_scheme) == (64, "hf")
    assert twin.config.reading.max_frames == PruneVidConfig().max_frames


@pytest.mark.parametrize("what", ["fastv", FastVOptions(), [Nowhere()], Plan((Step(60, Every()),)), {}], ids=str)
def test_the_class_refuses_what_says_nothing(model: PruneVidQwen25VL, what: Any) -> None:
    with pytest.raises(ConfigError):
        model.with_config(what)
    with pytest.raises(ConfigError):
        PruneVidQwen25VL("bundled", what, device="cpu")


def test_a_wrong_kind_is_refused_before_weights_are_looked_for() -> None:
    with pytest.raises(ConfigError, match="FastVOptions"):
        PruneVidQwen25VL("/no/such/folder", FastVOptions())


def test_a_conversation_goes_on_under_the_same_plan_alone(model: PruneVidQwen25VL, clip: Any) -> None:
    user = {"role": "user", "content": [{"type": "video", "video": clip}, {"type": "text", "text": ASKED}]}
    first = model.generate(messages=[user], max_new_tokens=2, return_dict_in_generate=True)
    talk = [user, {"role": "assistant", "content": first["answer"]}, {"role": "user", "content": "and the square ?"}]
    same = model.with_config([FastVOptions(keep_ratio=0.25), model.plan.steps[0]])  # type: ignore[union-attr]
    for other in (model.with_config([Pool(0.5)]), model.with_config(PruneVidConfig())):
        with pytest.raises(ConfigError):
            other.generate(messages=talk, past_key_values=copy.deepcopy(first["past_key_values"]), max_new_tokens=2)
    for asked in (model, same):
        held = copy.deepcopy(first["past_key_values"])
        assert asked.generate(messages=talk, past_key_values=held, max_new_tokens=2)["stats"]["input"]["cached_tokens"]


# ---- what was asked for and did not happen


def told(plan: Plan, *left: int, tokens: int = 96, layers: int = LAYERS) -> Any:
    """The receipt of one video of which the plan's steps left so many tokens."""
    rows, given = [], tokens
    for step, n in zip(plan.steps, left, strict=False):
        rows.append(Reduction(step.at, step.name, TokenMap.keep(torch.arange(n), given)))
        given = n
    sample = SampleTrace((Block("video", (8, 3, 4), 0, tokens),), tokens, tokens + 10, tuple(rows))
    trace = Trace("reference", plan.cuts[-1].at if plan.cuts else 2, layers, samples=(sample,))
    check_applied(trace, plan)
    return receipt(trace, 0, plan, [], [], tokens + 10, {}, {"read": 0.0, "total": 1.0}, 2)


def test_each_step_of_a_plan_has_to_do_its_work() -> None:
    plan = plan_of(
        [UniformMergeOptions(keep_tokens=48), FastVOptions(), PruneVidOptions(layers=(4,), keep_ratio=0.5)], 6
    )
    assert [row["tokens_out"] for row in told(plan, 48, 24, 12)["steps"]] == [48, 24, 12]
    for left in ((48, 24), (48,), (), (96, 48, 24), (48, 48, 24), (48, 24, 24)):
        with pytest.raises(PruningNotApplied):
            told(plan, *left)


def test_no_step_of_a_config_may_be_left_out() -> None:
    """Of several cuts of one method, too, whose places only the compiled plan knows."""
    config = PruneVidConfig(merger=None, selector=FastVOptions())
    sample = SampleTrace((), 96, 106, (Reduction(1, "fastv", TokenMap.keep(torch.arange(48), 96)),))
    check_applied(Trace("reference", 1, LAYERS, samples=(sample,), steps_at=(1,)), config)
    with pytest.raises(PruningNotApplied, match="layer 3"):
        check_applied(Trace("reference", 3, LAYERS, samples=(sample,), steps_at=(1, 3)), config)
    model = tiny_model("sdpa")
    with pruned(model, [FastVOptions(), PruneVidOptions(layers=4)]) as trace:
        model.generate(**make_inputs(CASES["mixed"]), max_new_tokens=1)
    assert trace.steps_at == (1, 3) == pickle.loads(pickle.dumps(trace)).steps_at


def test_a_reducer_made_by_hand_says_its_budget_itself() -> None:
    @dataclass(frozen=True)
    class Caps(Every):
        def most(self, layout: Any, step: int) -> int:
            return 40 if step == 0 else 20

    told(Plan((Step(1, Every()),)), 96)  # it says no budget
    caps = Caps()
    told(Plan((Step(1, caps), Step(3, caps))), 40, 20)
    for left in ((96, 20), (40, 40)):
        with pytest.raises(PruningNotApplied):
            told(Plan((Step(1, caps), Step(3, caps))), *left)
    stats = told(Plan((Step(1, Uniform(0.5)), Step(3, Uniform(0.05), "odd"))), 48, 1)
    assert stats["warnings"] and "Uniform" in str(stats["steps"])


@pytest.mark.parametrize(("own", "most"), [
    (FastVOptions(), 48 + 10), (FastVOptions(keep_tokens=30), 30 + 20), (PruneVidOptions(keep_ratio=0.01), 2),
    (UniformMergeOptions(cluster_ratio=0.25), 24 + 20), (UniformMergeOptions(0.25, merge_images=True), 24 + 5),
    (MERGE, None), (Uniform(0.1), 9 + 2), (Pool(0.5, merge_images=True), 58), (Every(), None),
], ids=str)  # fmt: skip
def test_methods_say_how_many_tokens_they_may_leave(own: Any, most: int | None) -> None:
    from prunevid_qwen import reducer
    from prunevid_qwen.tokens import TokenLayout

    blocks = (Block("video", (8, 3, 4), 0, 96), Block("image", (1, 4, 5), 96, 116))
    layout = TokenLayout(116, torch.arange(116), torch.arange(0), blocks, torch.zeros(116, dtype=torch.long))
    assert reducer.most(own, layout) == most


@pytest.mark.parametrize(("options", "most"), [
    ({}, None), ({"keep_ratio": 1.0}, 116), ({"max_keep_ratio": 0.5}, 58), ({"max_keep_ratio": 0.01}, 1),
    ({"max_keep_ratio": 0.01, "min_keep_tokens": 5}, 5), ({"max_keep_ratio": 0.25, "budget_scope": "image"}, 24 + 5),
    ({"keep_threshold": None, "keep_ratio": 0.25}, 29), ({"keep_threshold": None, "keep_tokens": 30}, 30 + 20),
    ({"max_keep_ratio": 0.01, "min_keep_tokens": 25, "budget_scope": "image"}, 25 + 20),
], ids=str)  # fmt: skip
def test_thresholds_say_it_where_they_have_a_cap(options: dict[str, Any], most: int | None) -> None:
    own = PruneVidConfig(selector="oracle", **options).selector
    sample = SampleTrace((Block("video", (8, 3, 4), 0, 96), Block("image", (1, 4, 5), 96, 116)), 116, 126)
    assert own.most(layout_before(sample, 0)) == most


def test_what_comes_to_a_step_is_what_the_ones_before_left() -> None:
    blocks = (Block("video", (8, 3, 4), 0, 96), Block("image", (1, 4, 5), 96, 116))
    first = Reduction(DOOR, "a", TokenMap.keep(torch.arange(0, 116, 2), 116))
    second = Reduction(2, "b", TokenMap.keep(torch.arange(40, 58), 58))
    sample = SampleTrace(blocks, 116, 126, (first, second))
    spans = [[(b.start, b.stop) for b in layout_before(sample, at).blocks] for at in range(3)]
    assert spans == [[(0, 96), (96, 116)], [(0, 48), (48, 58)], [(0, 8), (8, 18)]]
