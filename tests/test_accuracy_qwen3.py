"""The accuracy benchmark on Qwen3-VL's classes: times as text, DeepStack, methods that the model lacks parts for."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prunevid_qwen import PruneVidQwen25VL, get_baseline_config
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.evaluation.shapes.accuracy import accuracy_run
from prunevid_qwen.evaluation.shapes.accuracy_page import report
from prunevid_qwen.evaluation.shapes.accuracy_summary import read_answers, read_run, summarise
from prunevid_qwen.evaluation.shapes.budgets import LEFT_OUT, Calibration
from prunevid_qwen.evaluation.shapes.methods import AccuracyRun, Method, methods_called
from prunevid_qwen.evaluation.shapes.videos import FIRST_SEED, Questioner, ShapesVideo
from prunevid_qwen.inputs.qwen.media import MediaReader
from prunevid_qwen.moving_shapes.conditions import CONDITIONS
from tests.accuracy_model import PLAIN_STAGE_1, VIDEO, asked
from tests.qwen3 import save_qwen3

CLUTTER = CONDITIONS["clutter"]
SMALL: dict[str, Any] = {"budgets": (0.25,), "conditions": ("plain",), "videos": 1, "questions": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_qwen3(tmp_path_factory.mktemp("qwen3"))


@pytest.fixture(scope="module")
def model(folder: Path) -> PruneVidQwen25VL:
    return PruneVidQwen25VL(str(folder), get_baseline_config(), device="cpu", dtype="float32")


def frames_of(config: PruneVidConfig, model: PruneVidQwen25VL) -> list[list[int]]:
    """The prompts about one video, drawn and through a file."""
    pixels = config.replace(max_pixels=112 * 112)
    questions = VIDEO.questions(1)
    looks = [Questioner(model, VIDEO, questions, through).look(pixels) for through in (False, True)]
    return [look.inputs["input_ids"][0].tolist() for look in looks]


@pytest.mark.parametrize("frames", [16, 6])
def test_drawn_frames_have_the_times_of_the_file(frames: int, model: PruneVidQwen25VL) -> None:
    drawn, read = frames_of(get_baseline_config().replace(max_frames=frames), model)
    assert drawn == read
    written = model.tokenizer.decode(read).replace("<|video_pad|>", "").split("<|vision_end|>")
    first, second = VIDEO.timestamps(frames)[:2]
    assert f"<{(first + second) / 2:.1f} seconds>" in written[0] and written[0].count("seconds") == 1


def test_the_file_is_encoded_once(model: PruneVidQwen25VL, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Path] = []
    write = ShapesVideo.write
    monkeypatch.setattr(ShapesVideo, "write", lambda self, path: written.append(path) or write(self, path))
    questioner = Questioner(model, VIDEO, [], through_files=True)
    grids = [questioner._medium(get_baseline_config().replace(max_frames=n, max_pixels=112 * 112)) for n in (16, 4)]
    assert len(written) == 1 and [medium.grid[0, 0].item() for medium in grids] == [8, 2]


def test_a_budget_is_counted_on_the_states_at_the_door(model: PruneVidQwen25VL) -> None:
    """Not with the features beside them that DeepStack adds later, which are alike in other places."""
    calibration = Calibration(model, CLUTTER, 2)
    config = PLAIN_STAGE_1.replace(max_pixels=168 * 168, tau=0.9)
    assert calibration.planned(config) == pytest.approx(calibration.asked(config), abs=1e-9)
    assert calibration.planned(config) < 0.5, "something merged"


def test_tokens_are_counted_as_large_as_the_model_has_them(model: PruneVidQwen25VL) -> None:
    video = ShapesVideo(CLUTTER, FIRST_SEED)
    sizes = {}
    for patch in (14, 16):
        twin = model.with_config(get_baseline_config())
        media = model.preprocessor.media
        frontend = object.__new__(type(model.preprocessor))
        frontend.__dict__.update(vars(model.preprocessor))
        frontend.media = MediaReader(replace(media.video, patch_size=patch), media.image)
        twin.frontend = frontend
        questioner = Questioner(twin, video, video.questions(3))
        assert {shown.shape[1] for shown in questioner.shows} == {questioner.visual}
        smaller = asked("smaller frames")
        config = smaller.base_config(CLUTTER).replace(max_frames=2)
        sides = [setting["max_pixels"] for setting in smaller.settings(CLUTTER, token=2 * patch)]
        shown = [questioner._medium(config.replace(max_pixels=side)).grid[0, 1:] * patch for side in sides]
        assert [int(grid.prod()) for grid in shown] == sides
        sizes[patch] = questioner.visual
    assert sizes == {14: 8 * 6 * 6, 16: 8 * 5 * 5}


def test_a_method_that_the_model_cannot_be_pruned_by_is_left_out_with_its_reason(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    methods = tuple(methods_called(["blank", "uniform", "stage 2 glimpse"]))
    run = AccuracyRun(methods, model=str(folder), calibration_videos=1, **SMALL)
    with caplog.at_level(logging.WARNING, "prunevid_qwen"):
        accuracy_run(tmp_path, run, worker_count=1)
    (cell,) = [cell for cell in read_run(tmp_path)["cells"] if cell["method"] == "stage 2 glimpse"]
    assert (cell["status"], cell["budget"]) == (LEFT_OUT, None) and cell["why"]
    assert [each for each in caplog.messages if "stage 2 glimpse" in each and cell["why"] in each]
    answers = read_answers(tmp_path)
    assert {name.method for name in answers} == {"unpruned", "blank", "uniform"}
    summary = summarise(answers, read_run(tmp_path))
    assert summary["figures"]["left_out"] == {"stage 2 glimpse": cell["why"]}
    assert not [row for row in summary["figures"]["unreachable"] if "glimpse" in row["method"]]
    page = report(json.loads(json.dumps(summary)))
    section = page.partition("## Left out\n")[2].partition("\n## ")[0]
    assert f"| stage 2 glimpse | {cell['why']} |" in section
    assert summary["run"]["family"] == "Qwen3-VL" and "accuracy of Qwen3-VL**" in page and str(folder) in page


def test_a_run_of_left_out_methods_alone_is_refused(folder: Path, tmp_path: Path) -> None:
    mine = Method("mine", {"selector": "glimpse", "keep_threshold": None})
    run = AccuracyRun((mine,), model=str(folder), calibration_videos=1, **SMALL)
    with pytest.raises(ConfigError, match="mine"):
        accuracy_run(tmp_path, run, worker_count=1)
