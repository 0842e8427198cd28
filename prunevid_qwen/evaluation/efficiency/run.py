"""The speed benchmark from beginning to end: every number of frames and batch, resumable after every round."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from prunevid_qwen.errors import ConfigError
from prunevid_qwen.evaluation.efficiency.folder import MEASUREMENTS, add_line, cell_of, open_folder, read_lines
from prunevid_qwen.evaluation.efficiency.growth import GROWTH, measure_growth
from prunevid_qwen.evaluation.efficiency.inputs import Prompt, make_inputs
from prunevid_qwen.evaluation.efficiency.measure import Contest
from prunevid_qwen.evaluation.efficiency.overhead import OVERHEAD, measure_overhead
from prunevid_qwen.evaluation.efficiency.shapes import Shape, build_model, shape_called, shape_of
from prunevid_qwen.evaluation.efficiency.variants import competitors
from prunevid_qwen.evaluation.efficiency.video import read_prompt
from prunevid_qwen.evaluation.engine.reading import media_reader
from prunevid_qwen.inputs.qwen.media import MediaReader
from prunevid_qwen.loading import bundled_model, choose_device, load_model

Progress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done and how much there is."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class SpeedRun:
    """What is measured.

    Args:
        shape: of random weights; not read with ``model_path``.
        model_path: a hub id or folder of real weights, or None.
        device: "cpu", "cuda", ...
        dtype: "float32", "bfloat16" or "float16".
        attention: transformers' name of the attention kernel, the same for all.
        presets: names or JSON files of configs; the controls follow the first.
        frames: of the videos, one measurement each.
        batches: rows, one measurement each.
        grid: tokens of a temporal position, (rows, columns).
        text_tokens: beside the video.
        content: of random pixels: "still", "half" or "moving".
        video: None for random pixels, "generated" or a file.
        new_tokens: of every answer.
        repeats: rounds that count.
        warmup: rounds before them that do not, beside two runs of each competitor.
        threads: of torch on the CPU; None leaves them.
        contest: measure the competitors at all; False for `growth` or `overhead` alone.
        growth: also measure stage 1 alone, up to an hour of video.
        overhead: also measure what the hooks cost when nothing is pruned.
    """

    shape: str = "7b_small"
    model_path: str | None = None
    device: str = "cpu"
    dtype: str = "float32"
    attention: str = "sdpa"
    presets: tuple[str, ...] = ("paper", "recommended")
    frames: tuple[int, ...] = (16, 32)
    batches: tuple[int, ...] = (1,)
    grid: tuple[int, int] = (10, 14)
    text_tokens: int = 60
    content: str = "half"
    video: str | None = None
    new_tokens: int = 64
    repeats: int = 5
    warmup: int = 1
    threads: int | None = None
    contest: bool = True
    growth: bool = False
    overhead: bool = False

    def __post_init__(self) -> None:
        if self.model_path is None:
            shape_called(self.shape)
        if self.dtype not in DTYPES:
            raise ConfigError(f"dtype is one of {', '.join(DTYPES)}; got {self.dtype!r}")
        for name, least in (("new_tokens", 2), ("repeats", 1), ("warmup", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is at least {least}, got {getattr(self, name)}")
        if not self.frames or not self.batches:
            raise ConfigError("name at least one number of frames and one batch")
        competitors(self.presets)
        self.prompts()

    def prompts(self) -> list[Prompt]:
        """List what is measured, the smallest first."""
        return [
            Prompt(frames, *self.grid, self.text_tokens, self.content, batch)
            for batch in sorted(set(self.batches))
            for frames in sorted(set(self.frames))
        ]

    def fixed(self) -> dict[str, Any]:
        """Return what has to be equal for measurements to stand in one table."""
        grows = ("frames", "batches", "repeats", "warmup", "contest", "growth", "overhead", "threads")
        options = {name: value for name, value in asdict(self).items() if name not in grows}
        return {**options, "grid": list(self.grid), "presets": list(self.presets)}


def speed_run(
    folder: Path, run: SpeedRun, restart: bool = False, tell: Progress = lambda *_: None, command: str = ""
) -> Path:
    """Measure what is not yet measured.

    Args:
        folder: of the results; an unfinished run of the same options goes on.
        run: what to measure.
        restart: throw away what the folder holds.
        tell: told of the progress.
        command: what was typed, for the record.

    Returns: the path of the measurements.

    Raises:
        ConfigError: the folder holds another run, or an option is wrong.
        SetupError: the device is not there.
        PruningNotApplied: pruning was asked for and did not happen.
    """
    if run.threads is not None:
        torch.set_num_threads(run.threads)
    choose_device(run.device)
    _media(run)  # a model that cannot be measured is refused before a file is touched
    open_folder(folder, run.fixed(), command, restart)
    done = read_lines(folder) if (folder / MEASUREMENTS).exists() else []
    kinds = {line["kind"] for line in done}
    if run.contest:
        _contests(folder, run, done, tell)
    if run.overhead and OVERHEAD not in kinds:
        name = "0.5b" if torch.device(run.device).type == "cpu" else run.shape
        for line in measure_overhead(("tiny", name), torch.device(run.device), DTYPES[run.dtype], run.attention, tell):
            add_line(folder, line)
    if run.growth and GROWTH not in kinds:
        add_line(folder, measure_growth(torch.device(run.device), DTYPES[run.dtype], tell))
    return folder / MEASUREMENTS


def _contests(folder: Path, run: SpeedRun, done: list[dict[str, Any]], tell: Progress) -> None:
    todo = []
    for prompt in run.prompts():
        cell = (prompt.frames, prompt.batch)
        had = sum(line["kind"] == "round" and cell_of(line) == cell for line in done)
        if had < run.repeats:
            todo.append((prompt, had, any(line["kind"] == "facts" and cell_of(line) == cell for line in done)))
    if not todo:
        return
    tell("building the model", 0, 1)
    model, shape = _model(run)
    tell("building the model", 1, 1)
    for prompt, had, known in todo:
        _contest(folder, run, model, shape, prompt, had, known, tell)


def _contest(
    folder: Path, run: SpeedRun, model: Any, shape: Shape, prompt: Prompt, had: int, known: bool, tell: Progress
) -> None:
    cell = {"frames": prompt.frames, "batch": prompt.batch}
    named = f"{prompt.frames} frames, batch {prompt.batch}"
    read = None
    if run.video is None:
        inputs = make_inputs(prompt, model.config, model.device, model.dtype)
    else:
        found = read_prompt(run.video, prompt, model, _media(run), folder / "videos", run.repeats)
        prompt, inputs = found.prompt, found.inputs
        read = {"seconds": list(found.seconds), "video": found.facts}
    variants = competitors(run.presets)
    contest = Contest(model, shape, prompt, inputs, variants, run.new_tokens)
    steps, total = 0, len(variants) + run.warmup + run.repeats - had
    tell(named, 0, total)

    def step() -> None:
        nonlocal steps
        steps += 1
        tell(named, steps, total)

    about = contest.prepare(step)
    if not known:
        add_line(folder, {"kind": "facts", **cell, "read": read, "variants": about})
    for _ in contest.rounds(run.warmup):
        step()
    process = time.time()
    for times in contest.rounds(run.repeats - had):
        add_line(folder, {"kind": "round", **cell, "process": process, "times": times})
        step()


def _model(run: SpeedRun) -> tuple[Any, Shape]:
    if run.model_path is None:
        shape = shape_called(run.shape)
        return build_model(shape, torch.device(run.device), DTYPES[run.dtype], run.attention), shape
    arguments = {"dtype": run.dtype, "attn_implementation": run.attention}
    model = load_model(_source(run.model_path), run.device, arguments)
    return model, shape_of(model.config)


def _source(model_path: str) -> str:
    return bundled_model() if model_path == "bundled" else model_path


def _media(run: SpeedRun) -> MediaReader | None:
    return None if run.model_path is None else media_reader(run.model_path, {})
