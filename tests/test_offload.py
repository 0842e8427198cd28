"""Weights that accelerate keeps on the disk: inputs go to where it runs them; answers are as from memory."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from prunevid_qwen import PruneVidQwen25VL
from prunevid_qwen.config import PruneVidConfig, get_config
from prunevid_qwen.evaluation.engine.answering import Answering
from prunevid_qwen.evaluation.engine.task import Task
from prunevid_qwen.evaluation.engine.task_media import ByConfig, read_media
from prunevid_qwen.evaluation.shapes.videos import Questioner, ShapesVideo
from prunevid_qwen.evaluation.tasks.batch_questions import read_questions
from prunevid_qwen.forward.hooks import pruned
from prunevid_qwen.forward.plan import Plan, Step
from prunevid_qwen.moving_shapes import make_scene, write_frames
from prunevid_qwen.moving_shapes.conditions import CONDITIONS
from prunevid_qwen.moving_shapes.drawing import render
from prunevid_qwen.tokens.device import input_device
from prunevid_qwen.tokens.trace import DOOR
from tests.families import family_inputs, family_model
from tests.looking import NextLayer

ASKED = "what color is the circle ?"
PLACES: dict[str, dict[str, str]] = {
    "all": {"": "disk"},
    "vision": {"model.visual": "disk", "model.language_model": "cpu", "lm_head": "cpu"},
    "language": {"model.visual": "cpu", "model.language_model": "disk", "lm_head": "disk"},
}


@pytest.fixture(scope="module")
def frames() -> Any:
    return render(make_scene(1), 8)


@pytest.fixture(scope="module")
def expected(frames: Any) -> dict[str, Any]:
    answer: dict[str, Any] = PruneVidQwen25VL("bundled", device="cpu").generate(frames, ASKED, max_new_tokens=3)
    return answer


def runs_stock(model: PruneVidQwen25VL) -> bool:
    """Tell whether the library itself runs it: up to 5.10 the vision tower meets weights that are not there."""
    merge = model.preprocessor.media.video.merge_size
    patches, width = merge**2, model.model.model.visual.patch_embed.proj.weight[0].numel()
    try:
        model.model.get_image_features(torch.zeros(patches, width), torch.tensor([[1, merge, merge]]))
    except RuntimeError:
        return False
    return True


@pytest.mark.parametrize("where", PLACES)
def test_answers_of_an_offloaded_model(where: str, frames: Any, expected: dict[str, Any], tmp_path: Path) -> None:
    config = PruneVidConfig(vision_chunk_tokens=20)
    model = PruneVidQwen25VL("bundled", device_map=PLACES[where], offload_folder=str(tmp_path))
    if where == "all" and not runs_stock(model):
        pytest.skip("this release of transformers does not run such a model itself")
    prepared = model.prepare(frames, ASKED)
    for result in (
        model.generate(frames, ASKED, max_new_tokens=3), model.answer(prepared, max_new_tokens=3),
        model.with_config(config).generate(frames, ASKED, max_new_tokens=3),
    ):  # fmt: skip
        assert result["answer"] == expected["answer"]
        assert result["stats"]["device"] == "cpu"
        for part in ("stage1", "stage2", "stage3"):
            assert result["stats"][part]["applied"]


def test_engines_answer_with_an_offloaded_model(tmp_path: Path) -> None:
    """The one of batches, benchmarks and lmms-eval, with taps into the vision tower too; the accuracy bench's."""
    configs = tuple((name, get_config(name).replace(max_frames=8)) for name in ("baseline", "paper", "glimpse"))
    write_frames(tmp_path / "frames", render(make_scene(1), 8))
    (tmp_path / "q.jsonl").write_text(json.dumps({"video": "frames", "question": ASKED}))
    (question,) = read_questions(tmp_path / "q.jsonl")
    answers = []
    loading: dict[str, Any]
    for loading in ({}, {"device_map": PLACES["vision"], "offload_folder": str(tmp_path / "weights")}):
        answerer = Answering(configs, "bundled", loading, {"max_new_tokens": 3}).load()
        media = answerer.model.preprocessor.media
        read = read_media(ByConfig(configs[1][1], media.video, media.image), question.media)
        lines = list(answerer.answer(Task(question.media, ((question, tuple(dict(configs))),)), read))
        video = ShapesVideo(CONDITIONS["plain"], 1)
        asked = Questioner(answerer.model, video, video.questions(1)).ask(configs[1][1])
        answers.append(([line["raw"] for line in lines], [line["given"] for line in asked]))
    assert answers[0] == answers[1] and None not in answers[0][0]


@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava"])
def test_the_next_layers_projections_are_fetched_when_they_are_asked(family: str) -> None:
    """Between calls its weights are on "meta": accelerate's hooks bring them for a projection, too."""
    from accelerate import cpu_offload

    model, kept = copy.deepcopy(family_model(family)), []
    plan = Plan((Step(DOOR, NextLayer(0.8)), Step(2, NextLayer(0.6))))
    for offloaded in (False, True):
        if offloaded:
            cpu_offload(model, torch.device("cpu"))
        with torch.no_grad(), pruned(model, plan) as trace:
            model(**family_inputs(family, "one"))
        kept.append(trace.kept[0])
    assert next(model.model.language_model.layers[3].parameters()).device.type == "meta"
    assert torch.equal(*kept)


def test_inputs_go_to_where_offloaded_weights_are_run() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)).to("meta")
    assert input_device(module) == torch.device("cpu")  # nobody runs it
    on_gpu = SimpleNamespace(execution_device="cuda:0")
    module[1]._hf_hook = SimpleNamespace(hooks=(SimpleNamespace(execution_device=None), on_gpu))
    assert input_device(module) == torch.device("cuda", 0)
    module._hf_hook = SimpleNamespace(execution_device="cpu")  # the outermost decides
    assert input_device(module) == torch.device("cpu")
    assert input_device(nn.Linear(2, 2)) == torch.device("cpu") == input_device(nn.Identity())
