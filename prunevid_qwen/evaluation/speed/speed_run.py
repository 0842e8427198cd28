"""The speed benchmark from beginning to end: every number of frames and batch, resumable after every round."""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import count, product, repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prunevid_qwen.bundled import source_of
from prunevid_qwen.config import PruneVidConfig, get_paper_config
from prunevid_qwen.config.option_checks import check_count, unknown
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.evaluation.engine.task_media import media_reader
from prunevid_qwen.evaluation.report.intervals import Quantiles
from prunevid_qwen.evaluation.speed.contest import Contest, competitors, measure_overhead
from prunevid_qwen.evaluation.speed.encoder_contest import measure_encoder
from prunevid_qwen.evaluation.speed.model_shapes import build_model, shape_called
from prunevid_qwen.evaluation.speed.prompt_forms import PromptForm, form_of
from prunevid_qwen.evaluation.speed.prompt_inputs import PromptSize, make_inputs, read_prompt
from prunevid_qwen.evaluation.speed.speed_findings import MEASUREMENTS
from prunevid_qwen.evaluation.speed.timed_run import peak_memory, synchronise
from prunevid_qwen.evaluation.speed.video_contents import PAN, Content, check_still
from prunevid_qwen.evaluation.speed.vision_flops import check_counted
from prunevid_qwen.evaluation.store import Lines, Progress, RunFolder, keep_lines
from prunevid_qwen.forward.plan import compile_plan
from prunevid_qwen.loading import choose_device, config_of, load_model
from prunevid_qwen.reducer import Evidence
from prunevid_qwen.tokens import Block, TokenLayout

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# what may differ between measurements that stand in one table
_GROWS = ("frames", "batches", "repeats", "warmup", "contest", "growth", "overhead", "threads", "still", "pan")

POSITIONS = (56, 112, 225, 450, 900, 1800)  # of `measure_growth`: 1,800 are an hour at one frame a second
_GRID = _GROWTH_GRID = 10, 14
_GROWTH_CHANNELS = 512


@dataclass(frozen=True)
class SpeedRun:
    """What is measured."""

    shape: str = "7b_small"  # of random weights; not read with ``model_path``
    model_path: str | None = None  # a hub id or folder of real weights
    device: str = "cpu"  # as torch's, and the dtype
    dtype: str = "float32"
    attention: str = "sdpa"  # transformers' name of the attention kernel, the same for all
    presets: tuple[str, ...] = ("paper", "recommended")  # or JSON files of configs; the controls follow the first
    frames: tuple[int, ...] = (16, 32)  # of the prompts, one measurement for each pair of frames and batch
    batches: tuple[int, ...] = (1,)
    # of every prompt, as the next two: see `PromptSize`; None: 10x14, or what every frame has in the model
    grid: tuple[int, int] | None = None
    text_tokens: int = 60
    content: str = "half"
    video: str | None = None  # None for random pixels, "generated" or a file
    new_tokens: int = 64  # of every answer
    repeats: int = 5  # rounds that count
    warmup: int = 1  # rounds before them that do not, beside two runs of each competitor
    threads: int | None = None  # of torch on the CPU; None leaves them
    contest: bool = True  # measure the competitors at all; False for `growth` or `overhead` alone
    growth: bool = False  # also measure stage 1 alone, up to an hour of video
    overhead: bool = False  # also measure what the hooks cost when nothing is pruned
    still: tuple[float, ...] = ()  # also measure the time with the encoder in it, of which these shares stand still
    pan: bool = False  # and of a camera that pans

    def __post_init__(self) -> None:
        form = form_of(self.config()) if self.model_path is None else None
        if self.dtype not in DTYPES:
            raise ConfigError(unknown("a dtype is one of", self.dtype, DTYPES))
        for name, least in (("new_tokens", 2), ("repeats", 1), ("warmup", 0)):
            check_count(name, getattr(self, name), least)
        if not self.frames or not self.batches:
            raise ConfigError("name at least one number of frames and one batch")
        competitors(self.presets)
        self.sizes(form)
        check_still(self.still)
        if self.contents and self.video is not None:
            raise ConfigError(
                "--still and --pan draw videos of their own, so they do not read --video: leave one of them out"
            )

    @property
    def contents(self) -> tuple[Content, ...]:
        """Videos on which the time to the first token is measured with the encoder in it."""
        return (*self.still, *([PAN] if self.pan else []))

    def sizes(self, form: PromptForm | None = None) -> list[PromptSize]:
        """List what is measured, the smallest first, as the model's family writes it; None: as Qwen2.5-VL."""
        rows, columns = self.grid or (form and form.grid) or _GRID
        return [
            PromptSize(frames, rows, columns, self.text_tokens, self.content, batch, *([] if form is None else [form]))
            for batch in sorted(set(self.batches))
            for frames in sorted(set(self.frames))
        ]

    def config(self) -> Any:
        """Return the model's config; `ConfigError` where it cannot be measured."""
        config = shape_called(self.shape) if self.model_path is None else config_of(self._source(), {})
        check_counted(config)
        return config

    def _source(self) -> str:
        return source_of(str(self.model_path))

    def model(self) -> Any:
        """Load the model, or make the one of random weights."""
        if self.model_path is None:
            return build_model(shape_called(self.shape), torch.device(self.device), DTYPES[self.dtype], self.attention)
        return load_model(self._source(), self.device, {"dtype": self.dtype, "attn_implementation": self.attention})


def speed_run(
    folder: Path, run: SpeedRun, restart: bool = False, tell: Progress = lambda *_: None, command: str = ""
) -> None:
    """Measure what ``folder`` does not hold yet; every round is stored as soon as all have had their turn.

    ``restart`` throws away what the folder holds; ``command`` is what was typed, for the record.

    Raises:
        ConfigError: the folder holds another run, one of other code or on other hardware, or an option is wrong.
        SetupError: the device is not there.
        PruningNotApplied: pruning was asked for and did not happen.
    """
    if run.threads is not None:
        torch.set_num_threads(run.threads)
    choose_device(run.device)
    # a model that cannot be measured is refused before a file is touched
    sizes = run.sizes(form_of(run.config()))
    media = None if None in (run.model_path, run.video) else media_reader(str(run.model_path), {})
    machine = hardware(run.device)
    what = "time, memory and FLOPs with and without pruning, taken in turns"
    about = {"what": what, "command": command, "hardware": machine}
    options = {name: value for name, value in asdict(run).items() if name not in _GROWS}
    options |= {"grid": [sizes[0].rows, sizes[0].columns], "presets": list(run.presets)}
    files = (MEASUREMENTS, "efficiency.json", "efficiency.csv", "report.md")
    if RunFolder(folder, files).begin(options, about, restart)["hardware"] != machine:
        raise ConfigError(f"{folder} holds a run on other hardware: pass --restart, or another folder")
    done = keep_lines(folder / MEASUREMENTS)
    held: list[tuple[Any, ...]] = [
        (line["kind"], line.get("frames"), line.get("batch"), line.get("shape")) for line in done
    ]
    device, dtype, model = torch.device(run.device), DTYPES[run.dtype], None

    def built() -> Any:
        nonlocal model
        if model is None:
            tell("building the model", 0, 1)
            model = run.model()
            tell("building the model", 1, 1)
        return model

    with Lines(folder / MEASUREMENTS) as lines:
        for size in sizes if run.contest else ():
            cell = {"frames": size.frames, "batch": size.batch}
            rounds = run.repeats - held.count(("round", *cell.values(), None))
            if rounds <= 0:
                continue
            read, inputs = None, {}
            if run.video is None:
                inputs = make_inputs(size, built())
            else:
                size, inputs, read = read_prompt(run.video, size, built(), media, folder / "videos", run.repeats)
            entered = competitors(run.presets)
            contest = Contest(built(), size, inputs, entered, run.new_tokens)
            named, total = f"{cell['frames']} frames, batch {size.batch}", len(entered) + run.warmup + rounds
            steps = map(tell, repeat(named), count(), repeat(total))  # each `next` tells of one more
            next(steps)
            found = contest.prepare(partial(next, steps))
            if ("facts", *cell.values(), None) not in held:
                lines.add({"kind": "facts", **cell, "read": read, "variants": found})
            for _ in contest.rounds(run.warmup):
                next(steps)
            process = time.time()  # tells its rounds from those of a run that went on later
            for times in contest.rounds(rounds):
                lines.add({"kind": "round", **cell, "process": process, "times": times})
                next(steps)
        for size, content in product(sizes, run.contents):
            measure_encoder(built, size, content, run.presets, (run.repeats, run.warmup), lines, done, tell)
        for shape in ("tiny", "0.5b" if device.type == "cpu" else run.shape) if run.overhead else ():
            if ("overhead", None, None, shape) not in held:
                lines.add(measure_overhead(shape, device, dtype, run.attention, tell))
        if run.growth and ("growth", None, None, None) not in held:
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


# ---- stage 1 alone: how its time grows with the video's length, and what memory it takes


def video_features(positions: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Make a video [T, rows, columns, C]: scenes of 20 positions, each a still picture, half of whose locations move.

    There is a noise of a tenth of the signal.
    """
    generator = torch.Generator(device).manual_seed(0)
    size = (math.prod(_GROWTH_GRID), _GROWTH_CHANNELS)
    video = torch.empty(positions, *size, device=device, dtype=dtype)
    moves = torch.arange(size[0], device=device) % 2 == 1
    for part in video.split(20):
        scene = torch.randn(size, device=device, generator=generator)
        drawn = scene + 0.1 * torch.randn(part.shape, device=device, generator=generator)
        drawn[:, moves] = torch.randn(drawn[:, moves].shape, device=device, generator=generator)
        part.copy_(drawn)
    return video.view(positions, *_GROWTH_GRID, _GROWTH_CHANNELS)


def stage1_seconds(features: Tensor, config: PruneVidConfig) -> tuple[float, int]:
    """Time stage 1 of one video as it stands at the decoder's door: decide, then average; also return what is left."""
    door = compile_plan(config, 28).door
    assert door is not None
    (t, h, w), tokens = features.shape[:3], features.flatten(0, 2)
    place = torch.arange(tokens.shape[0], device=features.device)
    block = Block("video", (t, h, w), 0, tokens.shape[0])
    layout = TokenLayout(tokens.shape[0], place, place[:0], (block,), torch.zeros_like(place))
    with torch.inference_mode():
        synchronise(features.device)
        start = time.perf_counter()
        merged = door.by.plan(Evidence(layout, tokens, tokens[:0]))
        merged.mean(tokens)
        synchronise(features.device)
        return time.perf_counter() - start, merged.n_out


def measure_growth(
    device: torch.device, dtype: torch.dtype, tell: Progress = lambda *_: None, positions: Sequence[int] = POSITIONS
) -> dict[str, Any]:
    """Time stage 1 of the paper's preset over videos of more and more temporal positions, two frames each.

    ``exponent`` is that of time against length, fitted to the medians (1 is linear).
    """
    config, points = get_paper_config(), list[dict[str, Any]]()
    for number, length in enumerate(positions):
        tell("stage 1 against frames", number, len(positions))
        features = video_features(length, device, dtype)
        with peak_memory(device) as memory:  # also the warm-up
            _, left = stage1_seconds(features, config)
        seconds = Quantiles.of([stage1_seconds(features, config)[0] for _ in range(5)]).to_dict()
        sizes = {"frames": 2 * length, "positions": length, "tokens": length * math.prod(_GROWTH_GRID)}
        held = features.numel() * features.element_size()
        points.append({**sizes, "after_stage1": left, "seconds": seconds, "memory": memory, "input_bytes": held})
    tell("stage 1 against frames", len(positions), len(positions))
    frames, medians = [point["frames"] for point in points], [point["seconds"]["median"] for point in points]
    made = {"grid": list(_GROWTH_GRID), "channels": _GROWTH_CHANNELS, "dtype": str(dtype).removeprefix("torch.")}
    exponent = float(np.polyfit(np.log(frames), np.log(medians), 1)[0])
    return {"kind": "growth", **made, "points": points, "exponent": exponent}
