"""Prompts from real video files: generated clips of moving shapes, or one's own; and how long reading them takes."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.evaluation.efficiency.inputs import Prompt, around
from prunevid_qwen.evaluation.efficiency.shapes import MERGE
from prunevid_qwen.inputs.qwen.media import MediaReader
from prunevid_qwen.inputs.qwen.pixels import PixelOptions
from prunevid_qwen.moving_shapes import FIRST_HELD_OUT_SEED, make_scene, render, write_video

GENERATED = "generated"
_SPARSE = 4  # a generated file has so many frames for each one that is sampled


@dataclass(frozen=True)
class ReadPrompt:
    """Inputs that came from files.

    Args:
        prompt: what a row holds, with the grid that the reader made.
        inputs: as `generate` takes them.
        seconds: that reading one video took, decoding, resizing and cutting into patches: one value a repetition.
        facts: what the reader says of the first row's video.
    """

    prompt: Prompt
    inputs: dict[str, Any]
    seconds: tuple[float, ...]
    facts: dict[str, Any]


def read_prompt(
    source: str, prompt: Prompt, model: Any, media: MediaReader | None, folder: Path, repeats: int
) -> ReadPrompt:
    """Read a prompt's videos from files.

    Args:
        source: "generated", or a video file or folder of frames.
        prompt: frames and grid wanted.
        model: whose tokens, device and dtype to take.
        media: reads as the model wants it; None takes the stock settings with small frames allowed.
        folder: where generated files are written.
        repeats: how often the first row's video is read for the clock, after once for warm-up.

    Raises:
        ConfigError: several rows would show the one file, so that stage 1 would decide once for all.
        MediaError: the file is missing or unreadable.
    """
    if source != GENERATED and prompt.batch > 1:
        raise ConfigError("--video FILE would show every row of a batch the same: pass --batch 1, or --video generated")
    if media is None:
        media = MediaReader(video=PixelOptions(min_pixels=4 * 28 * 28, max_pixels=768 * 28 * 28))
    config = PruneVidConfig(
        max_frames=max(2, prompt.frames), max_pixels=prompt.rows * 28 * prompt.columns * 28, video_time_limit=None
    )
    files = [source] if source != GENERATED else [str(_draw(prompt, row, folder)) for row in range(prompt.batch)]
    read = [media.read_video(file, config) for file in files]
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        media.read_video(files[0], config)
        seconds.append(time.perf_counter() - start)
    t, h, w = read[0].grid[0].tolist()
    real = dataclasses.replace(prompt, frames=2 * t, rows=h // MERGE, columns=w // MERGE)
    device, dtype = next(model.parameters()).device, next(model.parameters()).dtype
    pixels = torch.cat([medium.pixels for medium in read])
    step = torch.tensor([read[0].seconds_per_grid])
    inputs = around(pixels, read[0].grid, step, real, model.config, device, dtype)
    return ReadPrompt(real, inputs, tuple(seconds), read[0].facts)


def _draw(prompt: Prompt, row: int, folder: Path) -> Path:
    scene = make_scene(FIRST_HELD_OUT_SEED + row, height=28 * prompt.rows, width=28 * prompt.columns)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"shapes_{prompt.frames}_{prompt.rows}x{prompt.columns}_{row}.mp4"
    if not path.exists():
        write_video(path, render(scene, frames=_SPARSE * prompt.frames))
    return path
