"""Engines: answers are those of the stock path, of any number of workers; a worker that dies costs time alone."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import pytest
import torch

from prunevid_qwen import ConfigError, PruneVidQwen25VL, PruningNotApplied, get_config
from prunevid_qwen.evaluation.datasets.record import Media
from prunevid_qwen.evaluation.engine import answering, local
from prunevid_qwen.evaluation.engine.answering import Answerer, Answering
from prunevid_qwen.evaluation.engine.local import run_here
from prunevid_qwen.evaluation.engine.task import Task, TaskQuestion
from prunevid_qwen.evaluation.engine.task_media import ByConfig, Read, read_media
from prunevid_qwen.moving_shapes import make_scene, render, write_frames
from tests.patience import PATIENCE
from tests.tolerances import LOGITS, close

QUESTIONS = ("What color is the first object?", "How many objects are there?", "Is there a red star?")
PLAIN = get_config("baseline").replace(max_frames=8)
PAPER = get_config("paper").replace(max_frames=8)
GLIMPSE = get_config("glimpse").replace(max_frames=8)


@dataclass(frozen=True)
class Plain(TaskQuestion):
    """A question as a chat message."""

    id: str
    text: str

    def messages(self, items: Any, media: Any) -> list[dict[str, Any]]:
        return [{"role": "user", "content": [*items, {"type": "text", "text": self.text}]}]

    def about(self) -> dict[str, Any]:
        return {"id": self.id}


@pytest.fixture(scope="module")
def model() -> PruneVidQwen25VL:
    return PruneVidQwen25VL("bundled", device="cpu")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = tmp_path_factory.mktemp("frames")
    return [str(write_frames(root / str(number), render(make_scene(number + 2), 8))) for number in range(4)]


def reading(model: PruneVidQwen25VL, config: Any = PAPER) -> ByConfig:
    media = model.preprocessor.media
    return ByConfig(config, media.video, media.image)


def task(path: str, names: tuple[str, ...], kind: Any = "frames", name: str = "") -> Task:
    asked = tuple((Plain(f"{name or path}/{i}", text), names) for i, text in enumerate(QUESTIONS))
    return Task((Media(kind, path, fps=2.0 if kind == "frames" else None),), asked)


def bare(lines: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


# ---- answering


def test_answers_are_those_of_the_package_and_videos_are_encoded_once(
    model: PruneVidQwen25VL, folders: list[str]
) -> None:
    """Configs with taps into the vision tower encode for themselves, all others share."""
    configs = (("baseline", PLAIN), ("paper", PAPER), ("glimpse", GLIMPSE))
    widths: list[int] = []
    tower = model.model.model.visual
    handle = tower.register_forward_pre_hook(lambda _module, args: widths.append(args[0].shape[1]))
    asked = task(folders[0], ("baseline", "paper", "glimpse"))
    try:
        read = read_media(reading(model), asked.media)
        lines = list(Answerer(model, configs, {"max_new_tokens": 4}).answer(asked, read))
    finally:
        handle.remove()
    assert [width for width in widths if width == 1176] == [1176, 1176]  # other calls bring what was encoded
    assert [line["config"] for line in lines] == ["baseline", "paper", "glimpse"] * 3
    for line, (question, (_, config)) in zip(lines, ((q, c) for q in QUESTIONS for c in configs), strict=True):
        stock = model.with_config(config).generate(folders[0], question, max_new_tokens=4)
        assert line["raw"] == stock["answer"]
        counts = {name: line["tokens"][name] for name in stock["stats"]["tokens"]}
        assert (
            counts == stock["stats"]["tokens"] and line["tokens"]["prompt"] == stock["stats"]["input"]["prompt_tokens"]
        )
        assert line["kept_ratio"] == counts["after_stage2"] / counts["visual"]
        assert line["prompt"].count("<|video_pad|>") == 1 and question in line["prompt"]
        assert line["media"][0]["timestamps"] == stock["stats"]["input"]["videos"][0]["timestamps"]
    assert len({line["raw"] for line in lines}) > 2


def test_chunks_of_the_vision_tower_give_the_features_of_generate(model: PruneVidQwen25VL, folders: list[str]) -> None:
    small = PAPER.replace(vision_chunk_tokens=20)
    asked = task(folders[1], ("small",))
    answerer = Answerer(model, (("small", small),), {"max_new_tokens": 2})
    read = read_media(reading(model, small), asked.media)
    encoded = answering.Encoded(answerer, read.media)
    rows: list[int] = []
    handle = model.model.model.visual.register_forward_pre_hook(lambda _module, args: rows.append(args[0].shape[0]))
    try:
        held, (medium,) = encoded.under(small)
    finally:
        handle.remove()
    assert rows == [16 * 4] * 4  # a position has 16 tokens of 4 patches, and two are more than 20
    whole = answering.Encoded(answerer, read.media).under(PAPER)[0].features[0].tokens
    assert held.features[0].tokens.shape == whole.shape and int(medium.grid[0, 0]) == 4
    close(held.features[0].tokens, whole, LOGITS)


def test_images_and_several_media_stand_in_a_prompt_in_order(model: PruneVidQwen25VL, folders: list[str]) -> None:
    picture = str(Path(folders[0]) / "frame_0003.png")
    media = (Media("frames", folders[1], fps=2.0), Media("image", picture))
    asked = Task(media, ((Plain("both", QUESTIONS[0]), ("paper",)),))
    read = read_media(reading(model), media)
    (line,) = Answerer(model, (("paper", PAPER),), {"max_new_tokens": 4}).answer(asked, read)
    stock = model.with_config(PAPER).generate(folders[1], QUESTIONS[0], images=picture, max_new_tokens=4)
    assert line["raw"] == stock["answer"] and line["prompt"].index("video_pad") < line["prompt"].index("image_pad")


def test_what_could_not_be_read_is_one_error_for_each_question_and_config(model: PruneVidQwen25VL) -> None:
    asked = task("/nowhere", ("baseline", "paper"), "video")
    lines = list(Answerer(model, (("baseline", PLAIN), ("paper", PAPER)), {}).answer(asked, Read((), "gone", 0.0)))
    assert [line["error"] for line in lines] == ["gone"] * 6 and all(line["raw"] is None for line in lines)


def test_memory_that_runs_out_is_an_error_and_pruning_that_did_not_happen_ends_the_run(
    model: PruneVidQwen25VL, folders: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = task(folders[0], ("paper",))
    read, answerer = (
        read_media(reading(model), asked.media),
        Answerer(model, (("paper", PAPER),), {"max_new_tokens": 2}),
    )

    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError

    with monkeypatch.context() as patch:
        patch.setattr(model.model, "generate", full)
        assert "out of GPU memory" in next(answerer.answer(asked, read))["error"]

    def nothing(*_: Any) -> None:
        raise PruningNotApplied("nothing happened")

    monkeypatch.setattr(answering, "check_applied", nothing)
    with pytest.raises(PruningNotApplied):
        next(answerer.answer(asked, read))


def test_configs_of_different_chunks_are_refused() -> None:
    with pytest.raises(ConfigError, match="vision_chunk_tokens is 64, 8192"):
        Answering((("a", PAPER), ("b", PAPER.replace(vision_chunk_tokens=64))))


# ---- spreading


@pytest.fixture(scope="module")
def alone(model: PruneVidQwen25VL, folders: list[str]) -> list[dict[str, Any]]:
    tasks = [task(path, ("baseline", "paper")) for path in folders]
    answerer = Answerer(model, (("baseline", PLAIN), ("paper", PAPER)), {"max_new_tokens": 4})
    return bare(line for each in tasks for line in answerer.answer(each, read_media(reading(model), each.media)))


@pytest.mark.parametrize("workers", [0, 1, pytest.param(2, marks=pytest.mark.nightly)])
def test_lines_do_not_depend_on_how_many_read(
    model: PruneVidQwen25VL, folders: list[str], alone: list[dict[str, Any]], workers: int
) -> None:
    tasks = [task(path, ("baseline", "paper")) for path in folders]
    answerer = Answerer(model, (("baseline", PLAIN), ("paper", PAPER)), {"max_new_tokens": 4})
    assert bare(run_here(tasks, reading(model), answerer.answer, workers)) == alone


@dataclass(frozen=True)
class Deadly:
    """Reads as another does, but ends its process at some media: once, or always."""

    inner: ByConfig
    path: str
    once: str

    def read(self, media: Media) -> Any:
        if media.path == self.path and not os.path.exists(self.once):
            if self.once != "/never/there":
                Path(self.once).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.inner.read(media)


@pytest.mark.nightly
@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.nightly)])
@pytest.mark.parametrize("once", [True, pytest.param(False, marks=pytest.mark.nightly)], ids=["once", "always"])
def test_a_worker_that_dies_is_replaced_and_nothing_is_lost_or_doubled(
    model: PruneVidQwen25VL, folders: list[str], alone: list[dict[str, Any]], tmp_path: Path, once: bool, workers: int
) -> None:
    tasks = [task(path, ("baseline", "paper")) for path in folders]
    answerer = Answerer(model, (("baseline", PLAIN), ("paper", PAPER)), {"max_new_tokens": 4})
    deadly: Any = Deadly(reading(model), folders[1], str(tmp_path / "died") if once else "/never/there")
    lines = bare(run_here(tasks, deadly, answerer.answer, workers))
    if once:
        assert lines == alone
        return
    of_it = [line for line in lines if line["id"].startswith(folders[1])]
    assert len(of_it) == 6 and all("killed its process twice" in line["error"] for line in of_it)
    assert [line for line in lines if line not in of_it] == [
        each for each in alone if not each["id"].startswith(folders[1])
    ]


@pytest.mark.nightly
def test_leaving_in_the_middle_ends_the_workers(
    model: PruneVidQwen25VL, folders: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pools = []
    start = local.start_pool
    monkeypatch.setattr(local, "start_pool", lambda *given, **more: pools.append(start(*given, **more)) or pools[-1])
    lines = run_here([task(path, ("paper",)) for path in folders], reading(model), lambda *_: [{"id": "x"}], 2)
    next(lines)
    processes = list(pools[0]._processes.values())
    assert len(processes) == 2
    lines.close()
    for process in processes:  # not by `is_alive`: the pool's own thread may be the one to hear of its end
        assert wait([process.sentinel], PATIENCE)


def test_a_config_that_does_not_fit_is_refused_with_the_model(
    model: PruneVidQwen25VL, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = PAPER.replace(pruning_layer=99)
    monkeypatch.setattr(PruneVidQwen25VL, "from_pretrained", lambda *_, **__: model)
    with pytest.raises(ConfigError, match="pruning_layer=99"):
        Answering((("paper", PAPER), ("deep", deep))).load()


def test_decoding_is_greedy_whatever_the_checkpoint_prefers(
    model: PruneVidQwen25VL, folders: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, told = task(folders[0], ("paper",)), []
    monkeypatch.setattr(model.model, "generate", lambda **given: told.append(given) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        next(
            Answerer(model, (("paper", PAPER),), {"max_new_tokens": 4}).answer(
                asked, read_media(reading(model), asked.media)
            )
        )
    greedy = {"do_sample": False, "num_beams": 1, "repetition_penalty": 1.0, "max_new_tokens": 4}
    assert greedy.items() <= told[0].items()
