"""How often the host waits for the device between the decoder's door and the first token, told from CPU tensors.

Everything that the embeddings lead to is marked; a question to what is marked would make the host wait on a GPU. What
stage 1 itself asks is counted in test_stage1_on_device.py: one question, how many tokens come out.
"""

from __future__ import annotations

import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from prunevid_qwen import PruneVidConfig, pruned
from prunevid_qwen.forward.plan import Plan, Step, compile_plan
from prunevid_qwen.needs import AttentionQuery, Evidence, Needs, VisionQuery
from prunevid_qwen.stage1_merge.prunevid import method as prunevid
from prunevid_qwen.stage1_merge.prunevid.on_cpu import VideoMerge
from prunevid_qwen.stage2_select import DPP, FastV
from prunevid_qwen.tokens import TokenMap
from prunevid_qwen.tokens.trace import DOOR
from tests.models import IMAGES, ONE_VIDEO, RAGGED, make_inputs, tiny_model

PACKAGE = Path(prunevid.__file__).parents[2]
ASKING = {
    "item", "tolist", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__", "nonzero", "masked_select",
    "bincount", "unique", "unique_consecutive", "equal", "allclose",
}  # fmt: skip


class OnDevice(Tensor):
    """A CPU tensor that stands for one on a GPU; so does all that is computed from it."""

    asked: ClassVar[list[str]] = []

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        masked = name in ("__getitem__", "__setitem__") and any(
            isinstance(each, Tensor) and each.dtype == torch.bool
            for each in (args[1] if isinstance(args[1], tuple) else args[1:2])
        )
        if name in ASKING or masked:
            cls.asked += asked_by_us()
        if name in ("__setitem__", "index_copy_", "scatter_", "scatter_add_") and type(args[0]) is Tensor:
            args[0].__class__ = OnDevice  # what is written into holds it too
        return super().__torch_function__(func, types, args, kwargs or {})


def asked_by_us() -> list[str]:
    """Name the function of ours that asks; none where the library does, or where a GPU checks for itself."""
    for frame in reversed(traceback.extract_stack()[:-2]):
        # `_cpu` is what runs in the place of a kernel
        if "transformers" in Path(frame.filename).parts or frame.name in ("check_on_device", "_cpu"):
            return []
        if Path(frame.filename).is_relative_to(PACKAGE):
            return [frame.name]
    return []


class OnDeviceMerge:
    """Stage 1 whose map stands on the device."""

    def __init__(self, features: Tensor, options: prunevid.PruneVidMerge) -> None:
        self.plain = VideoMerge(features.as_subclass(Tensor), options)

    def token_map(self) -> TokenMap:
        found = self.plain.token_map()
        assert found.stratum is not None
        return TokenMap.trusted(*(x.as_subclass(OnDevice) for x in (found.target, found.rep, found.stratum)))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(prunevid.PruneVidMerge, "_merge", lambda self, features: OnDeviceMerge(features, self))
    monkeypatch.setattr(OnDevice, "asked", [])
    return OnDevice.asked


def run(samples: Any, config: PruneVidConfig | Plan, merged: bool = True, family: str = "qwen2_5_vl") -> None:
    model = tiny_model(family=family)

    def onto_the_device(_module: Any, args: Any, kwargs: Any) -> Any:
        there = {"inputs_embeds": kwargs["inputs_embeds"].as_subclass(OnDevice)}
        if "visual_pos_masks" in kwargs:
            levels = [level.as_subclass(OnDevice) for level in kwargs["deepstack_visual_embeds"]]
            there |= {"visual_pos_masks": kwargs["visual_pos_masks"].as_subclass(OnDevice)}
            there |= {"deepstack_visual_embeds": levels}
        return args, {**kwargs, **there}

    first = model.model.language_model.register_forward_pre_hook(onto_the_device, with_kwargs=True)
    try:
        with torch.no_grad(), pruned(model, config) as trace:
            model(**make_inputs(samples, family=family))
    finally:
        first.remove()
    shown = [sample.merged for sample in trace.samples if sample.tokens]
    assert not merged or all(each is not None and not each.is_identity for each in shown)


@pytest.mark.parametrize("selector", ["prunevid", "fastv", "dpp", "random", "uniform"])
def test_nothing_is_asked_about_one_video(selector: str, asked: list[str]) -> None:
    run(ONE_VIDEO, PruneVidConfig(selector=selector, min_cluster_tokens=0, pruning_layer=2))
    assert asked == []


@pytest.mark.parametrize(("selector", "options", "questions"), [
    ("pyramiddrop", {}, 0), ("pyramiddrop", {"keep_ratio": 0.6}, 0), ("sparsevlm", {"kept": (0.6, 0.4, 0.2)}, 0),
    ("sparsevlm", {"schedule": "rank", "layers": (1, 2, 4), "recycle": 0.0}, 3),
], ids=str)  # fmt: skip
def test_methods_of_several_cuts_ask_nothing_but_a_rank(
    selector: str, options: dict[str, Any], questions: int, asked: list[str]
) -> None:
    run(ONE_VIDEO, PruneVidConfig(selector=selector, merger=None, **options), merged=False)
    assert asked == ["_kept"] * questions


@pytest.mark.parametrize(("layer", "merges", "questions"), [(1, True, 0), (1, False, 1), (3, True, 0), (3, False, 0)])
def test_deepstack_asks_once_where_its_tokens_stand(layer: int, merges: bool, questions: int, asked: list[str]) -> None:
    config = PruneVidConfig(selector="fastv", enable_stage1=merges, min_cluster_tokens=0, pruning_layer=layer)
    run(ONE_VIDEO, config, merges, "qwen3_vl")
    assert asked == ["added"] * questions


def test_budgets_of_groups_cost_one_question(asked: list[str]) -> None:
    run(ONE_VIDEO, PruneVidConfig(selection_scope="per_group", min_cluster_tokens=0, pruning_layer=2))
    assert asked == ["stratified_topk"]


def test_several_videos_cost_one_question_a_stage(asked: list[str]) -> None:
    run(RAGGED, PruneVidConfig(min_cluster_tokens=0, pruning_layer=2))
    assert asked == ["apply", "apply"]


def test_rows_of_one_shape_cost_one_question(asked: list[str]) -> None:
    run(ONE_VIDEO * 3, PruneVidConfig(min_cluster_tokens=0, pruning_layer=2))
    assert asked == ["_showing_the_same"]


def three_cuts(config: PruneVidConfig) -> Plan:
    """Let two more steps stand behind the config's own, whose evidence is another layer's attention and the states."""
    plan = compile_plan(config, 6)
    return replace(plan, steps=(*plan.steps, Step(3, FastV(keep_ratio=0.4)), Step(4, DPP(keep_ratio=0.4))))


def test_more_steps_ask_nothing_about_one_video(asked: list[str]) -> None:
    run(ONE_VIDEO, three_cuts(PruneVidConfig(min_cluster_tokens=0, pruning_layer=2)))
    assert asked == []


def test_several_videos_cost_one_question_a_step(asked: list[str]) -> None:
    run(RAGGED, three_cuts(PruneVidConfig(min_cluster_tokens=0, pruning_layer=2)))
    assert asked == ["apply"] * 4


class Asking:
    """Has each kind of evidence gathered, and keeps every second token."""

    def __init__(self, needs: Needs) -> None:
        self.needs = needs

    def prepare(self, seen: Evidence) -> Tensor:
        return seen.question.float().mean()

    def plan(self, seen: Evidence) -> TokenMap:
        assert seen.note is not None and seen.attention is not None and seen.keys is not None
        n = seen.hidden.shape[0]
        return TokenMap.keep(torch.arange(0, n, 2).as_subclass(OnDevice), n)


def asking(at: int, rows: str, projections: str = "next") -> Step:
    attention = AttentionQuery(heads="mean", rows=rows, projections=projections, top_heads=2)
    return Step(
        at, Asking(Needs(attention, "question", vision=VisionQuery((0,), what=("received", "keys")), keys=True))
    )


def test_evidence_of_each_kind_asks_nothing_about_one_video(asked: list[str]) -> None:
    run(ONE_VIDEO, Plan((asking(DOOR, "last"), asking(1, "each"), asking(2, "mean", "own"))), merged=False)
    assert asked == []


def test_evidence_of_each_kind_costs_no_more_than_a_question_a_step(asked: list[str]) -> None:
    run(RAGGED, Plan((asking(DOOR, "last"), asking(1, "each"), asking(2, "mean", "own"))), merged=False)
    assert asked == ["apply"] * 3
    asked.clear()
    run(ONE_VIDEO * 3, Plan((asking(DOOR, "last"), asking(1, "each"))), merged=False)
    assert asked == ["_showing_the_same"]


def test_a_question_is_seen(asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    keep = TokenMap.keep
    monkeypatch.setattr(TokenMap, "keep", lambda index, n_in: TokenMap(keep(index, n_in).target, keep(index, n_in).rep))
    run(IMAGES[:1], PruneVidConfig(merge_images=True, min_cluster_tokens=0, pruning_layer=2))
    assert "is_selection" in asked
