"""The speed benchmark from beginning to end: every number of frames and batch, resumable after every round."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import asdict, dataclass
from functools import partial
from itertools import count, repeat
from pathlib import Path
from typing import Any

import torch

from prunevid_qwen.config.option_checks import check_count, unknown
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.evaluation.engine.task_media import media_reader
from prunevid_qwen.evaluation.speed.contest import Contest, competitors
from prunevid_qwen.evaluation.speed.growth import GROWTH, measure_growth
from prunevid_qwen.evaluation.speed.model_shapes import build_model, check_counted, shape_called
from prunevid_qwen.evaluation.speed.overhead import OVERHEAD, measure_overhead
from prunevid_qwen.evaluation.speed.prompt_inputs import PromptSize, make_inputs, read_prompt
from prunevid_qwen.evaluation.speed.speed_findings import MEASUREMENTS, cell_of
from prunevid_qwen.evaluation.store import Lines, Progress, RunFolder, keep_lines
from prunevid_qwen.inputs.qwen.media import MediaReader
from prunevid_qwen.loading import bundled_model, choose_device, load_model

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# what may differ between measurements that stand in one table
_GROWS = ("frames", "batches", "repeats", "warmup", "contest", "growth", "overhead", "threads")
_FILES = (MEASUREMENTS, "efficiency.json", "efficiency.csv", "report.md")


@dataclass(frozen=True)
class SpeedRun:
    """What is measured.

    Args:
        shape: of random weights; not read with ``model_path``.
        model_path: a hub id or folder of real weights, or None.
        device, dtype: by name, as torch's.
        attention: transformers' name of the attention kernel, the same for all.
        presets: names or JSON files of configs; the controls follow the first.
        frames, batches: of the prompts, one measurement for each pair.
        grid, text_tokens, content: of every prompt, as in `PromptSize`.
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
            raise ConfigError(unknown("a dtype is one of", self.dtype, DTYPES))
        for name, least in (("new_tokens", 2), ("repeats", 1), ("warmup", 0)):
            check_count(name, getattr(self, name), least)
        if not self.frames or not self.batches:
            raise ConfigError("name at least one number of frames and one batch")
        competitors(self.presets)
        self.sizes()

    def sizes(self) -> list[PromptSize]:
        """List what is measured, the smallest first."""
        return [
            PromptSize(frames, *self.grid, self.text_tokens, self.content, batch)
            for batch in sorted(set(self.batches))
            for frames in sorted(set(self.frames))
        ]


def speed_run(
    folder: Path, run: SpeedRun, restart: bool = False, tell: Progress = lambda *_: None, command: str = ""
) -> None:
    """Measure what is not yet measured; every round is stored as soon as all have had their turn.

    Args:
        folder: of the results; an unfinished run of the same options goes on.
        run: what to measure.
        restart: throw away what the folder holds.
        tell: told of the progress.
        command: what was typed, for the record.

    Raises:
        ConfigError: the folder holds another run, one of other code or on other hardware, or an option is wrong.
        SetupError: the device is not there.
        PruningNotApplied: pruning was asked for and did not happen.
    """
    if run.threads is not None:
        torch.set_num_threads(run.threads)
    choose_device(run.device)
    # a model that cannot be measured is refused before a file is touched
    media = None if run.model_path is None else media_reader(run.model_path, {})
    machine = hardware(run.device)
    what = "time, memory and FLOPs with and without pruning, taken in turns"
    about = {"what": what, "command": command, "hardware": machine}
    options = {name: value for name, value in asdict(run).items() if name not in _GROWS}
    options |= {"grid": list(run.grid), "presets": list(run.presets)}
    if RunFolder(folder, _FILES).begin(options, about, restart)["hardware"] != machine:
        raise ConfigError(f"{folder} holds a run on other hardware: pass --restart, or another folder")
    done = keep_lines(folder / MEASUREMENTS)
    kinds = {line["kind"] for line in done}
    device, dtype = torch.device(run.device), DTYPES[run.dtype]
    with Lines(folder / MEASUREMENTS) as lines:
        if run.contest:
            _contests(lines, run, media, done, tell)
        if run.overhead and OVERHEAD not in kinds:
            shapes = ("tiny", "0.5b" if device.type == "cpu" else run.shape)
            for line in measure_overhead(shapes, device, dtype, run.attention, tell):
                lines.add(line)
        if run.growth and GROWTH not in kinds:
            lines.add(measure_growth(device, dtype, tell))


def hardware(device: str) -> dict[str, Any]:
    """Say what is measured on."""
    found: dict[str, Any] = {
        "device": device,
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
    if torch.device(device).type == "cuda":
        about = torch.cuda.get_device_properties(torch.device(device))
        found |= {"gpu": about.name, "gpu_memory": about.total_memory, "cuda": torch.version.cuda}
        found["capability"] = list(torch.cuda.get_device_capability(torch.device(device)))
    return found


def _contests(
    lines: Lines, run: SpeedRun, media: MediaReader | None, done: list[dict[str, Any]], tell: Progress
) -> None:
    """Measure the rounds that are not held yet with each prompt, and what each competitor did where that is not."""
    held = [(line["kind"], cell_of(line)) for line in done if line["kind"] in ("facts", "round")]
    model = None
    for size in run.sizes():
        cell, named = {"frames": size.frames, "batch": size.batch}, f"{size.frames} frames, batch {size.batch}"
        rounds = run.repeats - held.count(("round", cell_of(cell)))
        if rounds <= 0:
            continue
        if model is None:
            tell("building the model", 0, 1)
            model = _model(run)
            tell("building the model", 1, 1)
        if run.video is None:
            read, inputs = None, make_inputs(size, model)
        else:
            size, inputs, read = read_prompt(run.video, size, model, media, lines.path.parent / "videos", run.repeats)
        entered = competitors(run.presets)
        contest = Contest(model, size, inputs, entered, run.new_tokens)
        total = len(entered) + run.warmup + rounds
        steps = map(tell, repeat(named), count(), repeat(total))  # each `next` tells of one more
        next(steps)
        about = contest.prepare(partial(next, steps))
        if ("facts", cell_of(cell)) not in held:
            lines.add({"kind": "facts", **cell, "read": read, "variants": about})
        for _ in contest.rounds(run.warmup):
            next(steps)
        process = time.time()  # tells its rounds from those of a run that went on later
        for times in contest.rounds(rounds):
            lines.add({"kind": "round", **cell, "process": process, "times": times})
            next(steps)


def _model(run: SpeedRun) -> Any:
    if run.model_path is None:
        return build_model(shape_called(run.shape), torch.device(run.device), DTYPES[run.dtype], run.attention)
    source = bundled_model() if run.model_path == "bundled" else run.model_path
    model = load_model(source, run.device, {"dtype": run.dtype, "attn_implementation": run.attention})
    check_counted(model.config)
    return model
