"""The speed benchmark over every family: prompts as it writes them, FLOPs as torch counts them, shapes as published."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from prunevid_qwen.adapters import adapter_for, families
from prunevid_qwen.adapters.tiny import installed_families
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.evaluation.speed.contest import KEEP_EVERYTHING, STOCK, Contest, competitors
from prunevid_qwen.evaluation.speed.flops import cluster_flops, decode_flops, decoder_flops, facts_of, lm_head_flops
from prunevid_qwen.evaluation.speed.model_shapes import SHAPES, Shape, build_model, shape_called
from prunevid_qwen.evaluation.speed.prompt_forms import form_of
from prunevid_qwen.evaluation.speed.prompt_inputs import PromptSize, make_inputs
from prunevid_qwen.evaluation.speed.speed_run import SpeedRun
from prunevid_qwen.evaluation.speed.timed_run import timed_parts, timed_tokens
from prunevid_qwen.evaluation.speed.vision_flops import check_counted, vision_flops
from prunevid_qwen.tokens import Block, TokenMap
from tests.models import tiny_model

LINEAR = ("qwen3_5", "qwen3_5_moe")
COUNTED = [name for name in installed_families() if name not in LINEAR]
with torch.device("meta"):  # torch notes once what makes tensors: before `poisoned` replaces some of it
    torch.empty(0)


def some(*cheap: str) -> Any:
    """All families, in `make test` these."""
    rows = [each if each in cheap else pytest.param(each, marks=pytest.mark.nightly) for each in COUNTED]
    return pytest.mark.parametrize("family", rows)


def model_of(family: str) -> Any:
    model = tiny_model("eager", family)
    if getattr(model.config.text_config, "num_experts", 0):
        model.set_experts_implementation("eager")  # the others are not counted by torch
    return model


def size_of(family: str, **given: Any) -> PromptSize:
    form = form_of(model_of(family).config)
    rows, columns = form.grid or (5, 7)
    return PromptSize(**{"frames": 4, "rows": rows, "columns": columns, "text_tokens": 20, **given}, form=form)


class Counted:
    """What torch counts while some modules run."""

    def __init__(self, **watched: Iterable[Any]) -> None:
        self.watched, self.flops = watched, dict.fromkeys(watched, 0)

    def run(self, call: Any) -> Any:
        with FlopCounterMode(display=False) as counter, ExitStack() as stack:
            for name, modules in self.watched.items():
                for module in modules:

                    def enters(*_: Any, name: str = name) -> None:
                        self.flops[name] -= counter.get_total_flops()

                    def leaves(*_: Any, name: str = name) -> None:
                        self.flops[name] += counter.get_total_flops()

                    stack.callback(module.register_forward_pre_hook(enters).remove)
                    stack.callback(module.register_forward_hook(leaves).remove)
            return call()


def watch(model: Any) -> Counted:
    parts = adapter_for(model).parts
    projector = getattr(parts.root, "multi_modal_projector", None)
    seeing = [*dict.fromkeys(parts.towers.values()), *filter(None, [projector])]
    return Counted(
        vision=seeing, layers=parts.layers, decoder=[parts.decoder], angles=[parts.decoder.rotary_emb],
        head=[model.lm_head],
    )  # fmt: skip


def tower_angles(model: Any) -> list[Any]:
    """What some releases make by a product: rotary angles of the tower."""
    towers = adapter_for(model).parts.towers.values()
    return [part for tower in dict.fromkeys(towers) for name, part in tower.named_modules() if "rotary" in name]


@some("qwen3_vl", "llava_onevision", "internvl")
def test_a_stock_models_parts_are_counted_exactly(family: str) -> None:
    model, size = model_of(family), size_of(family, batch=2)
    inputs, counted, angles = make_inputs(size, model), watch(model), Counted(angles=tower_angles(model))
    parts = counted.run(lambda: angles.run(lambda: timed_parts(model, inputs, None)))
    config, layers = model.config, model.config.text_config.num_hidden_layers
    grid = (size.positions, size.rows, size.columns)
    assert counted.flops["vision"] - angles.flops["angles"] == vision_flops(config, grid, 2) > 0
    assert counted.flops["layers"] == decoder_flops(config, [size.length] * layers, 2)["total"]
    assert counted.flops["head"] == lm_head_flops(config, 2)
    facts = facts_of(size, model, None, parts)
    assert facts["cache_bytes"]["computed"] == facts["cache_bytes"]["measured"] == facts["cache_bytes"]["unpruned"]
    assert inputs["input_ids"].shape == (2, size.length)
    assert (adapter_for(model).types(inputs["input_ids"]) > 0).sum(-1).tolist() == [size.visual_tokens] * 2


@pytest.mark.nightly
@some("qwen3_vl_moe")  # what is counted most otherwise
@pytest.mark.parametrize("selector", [pytest.param("prunevid", marks=pytest.mark.nightly), "fastv"])
def test_a_pruned_models_layers_scores_and_steps_are_counted_exactly(family: str, selector: str) -> None:
    model, size = model_of(family), size_of(family)
    config = PruneVidConfig(merger=None, selector=selector, pruning_layer=2, keep_ratio=0.3)
    inputs, counted = make_inputs(size, model), watch(model)
    parts = counted.run(lambda: timed_parts(model, inputs, config))
    facts = facts_of(size, model, config, parts)
    flops = facts["flops"]
    assert facts["widths"][0] == size.length > facts["widths"][-1]
    own = counted.flops["decoder"] - counted.flops["angles"]
    assert own == flops["decoder"]["total"] + flops["stage2"] and flops["stage2"] > 0
    assert facts["cache_bytes"]["computed"] == facts["cache_bytes"]["measured"] < facts["cache_bytes"]["unpruned"]
    once, twice = watch(model), watch(model)
    once.run(lambda: timed_tokens(model, inputs, config, 1))
    twice.run(lambda: timed_tokens(model, inputs, config, 2))
    step = sum(twice.flops[name] - once.flops[name] for name in ("layers", "head"))
    assert step == decode_flops(model.config, [n + 1 for n in facts["cache_lengths"]]) == flops["decode_step"]


@some()
def test_competitors_run_and_controls_keep_as_many_tokens(family: str) -> None:
    model, size = model_of(family), size_of(family)
    paper = PruneVidConfig(pruning_layer=2, min_cluster_tokens=0)
    entered = [each._replace(config=paper) if each.name == "paper" else each for each in competitors(("paper",))]
    found = Contest(model, size, make_inputs(size, model), entered, 2).prepare()
    assert [each for each in found if "error" in found[each]] == []
    assert found[KEEP_EVERYTHING]["tokens_as_stock"] and found[STOCK]["facts"]["R_kv"] == 1
    tokens = {name: found[name]["facts"]["tokens"] for name in ("paper", "random", "uniform")}
    assert tokens["paper"] == tokens["random"] == tokens["uniform"]
    assert found["paper"]["facts"]["R2"] < 1
    assert (found["paper"]["facts"]["R1"] < 1) == (size.form.kind == "video")  # images pass stage 1


def test_tokens_without_a_place_are_not_clustered() -> None:
    """Two positions of 2x3 behind a CLS token each: as in `test_speed_flops`, and two tokens that stay."""
    target = torch.tensor([0, 1, 1, 2, 2, 3, 3, 4, 1, 1, 5, 5, 6, 6])
    merged = TokenMap(target, torch.tensor([0, 1, 3, 5, 7, 10, 12]), torch.tensor([3, 0, 1, 1, 3, 2, 2]))
    cells = torch.tensor([-1, *range(6), -1, *range(6, 12)])
    blocks = (Block("video", (2, 2, 3), 0, 14, unplaced=2),)
    found = cluster_flops(merged, blocks, 10, least=1, cells=cells)
    assert found == 10 * (2 * 2 * 2 + 2 * 2 * 2 + 2 * (2 * 4 * 4))


def test_heads_that_are_wider_than_the_states_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    deep = {"deepstack_visual_indexes": [0], "patch_size": 14, "num_position_embeddings": 16}
    wide = Shape("qwen3_vl", (4, 64, 96, 4, 2, 300), (2, 32, 48, 2), head=32, seen=deep)
    monkeypatch.setitem(SHAPES, "wide", wide)
    model = build_model(shape_called("wide"), torch.device("cpu"), torch.float32, "eager")
    size = PromptSize(4, 4, 5, 20, form=form_of(model.config))
    config = PruneVidConfig(merger=None, pruning_layer=1, keep_ratio=0.3)
    inputs, counted = make_inputs(size, model), watch(model)
    facts = facts_of(size, model, config, counted.run(lambda: timed_parts(model, inputs, config)))
    decoder = counted.flops["decoder"] - counted.flops["angles"]
    assert decoder == facts["flops"]["decoder"]["total"] + facts["flops"]["stage2"]
    assert facts["cache_bytes"]["computed"] == facts["cache_bytes"]["measured"]


@pytest.mark.parametrize("family", [each for each in LINEAR if each in installed_families()])
def test_a_hybrid_is_refused_with_the_reason(family: str) -> None:
    with pytest.raises(ConfigError, match="linear attention"):
        check_counted(model_of(family).config)


def test_every_family_is_counted_or_refused_and_has_a_shape_for_a_cpu() -> None:
    assert set(COUNTED) | set(LINEAR) >= set(installed_families()) and set(families()) >= set(COUNTED)
    assert {shape.family for name, shape in SHAPES.items() if name.endswith("_small")} == set(families()) - set(LINEAR)


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("7b", 8.29), ("3b", 3.75), ("qwen2vl-7b", 8.29), ("qwen3vl-2b", 2.13), ("qwen3vl-4b", 4.44),
        ("qwen3vl-8b", 8.77), ("qwen3vl-32b", 33.4), ("qwen3vl-30b-a3b", 31.1), ("llava-1.5-7b", 7.06),
        ("llava-1.5-13b", 13.35), ("llava-next-7b", 7.06), ("llava-next-video-7b", 7.06), ("llava-ov-7b", 8.03),
        ("llava-ov-0.5b", 0.894), ("video-llava-7b", 7.37), ("internvl3-8b", 7.94),
    ],
)  # fmt: skip
def test_a_published_shape_has_as_many_parameters_as_the_checkpoint(name: str, billions: float) -> None:
    from transformers import AutoModelForImageTextToText

    shape = shape_called(name)
    if shape.model_type not in COUNTED:
        pytest.skip("this release does not have the family")
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(shape)
    count = sum({id(each): each.numel() for each in model.parameters()}.values())
    assert count / 1e9 == pytest.approx(billions, rel=0.01)


def test_a_shape_of_fixed_frames_has_their_grid_and_no_other() -> None:
    run = {"presets": ("paper",), "frames": (4,)}
    (size,) = SpeedRun(shape="llava-ov-7b_small", **run).sizes(form_of(shape_called("llava-ov-7b_small")))
    assert (size.rows, size.columns, size.visual_tokens) == (14, 14, 4 * 196 + 1)
    with pytest.raises(ConfigError, match="14x14"):
        SpeedRun(shape="llava-ov-7b_small", grid=(10, 14), **run)
    (size,) = SpeedRun(shape="qwen3vl-8b_small", **run).sizes(form_of(shape_called("qwen3vl-8b_small")))
    assert (size.rows, size.columns, size.visual_tokens, size.all_text) == (10, 14, 2 * 140, 60 + 2 * 6 + 2)


def test_what_stands_between_frames_stands_in_the_prompt() -> None:
    model, size = model_of("qwen3_vl"), size_of("qwen3_vl")
    layout = adapter_for(model).types(make_inputs(size, model)["input_ids"])[0]
    starts = ((layout[1:] > 0) & (layout[:-1] == 0)).nonzero()[:, 0] + 1
    assert len(starts) == size.positions == 2
    assert int(starts[1] - starts[0]) == size.rows * size.columns + size.form.times + 2
