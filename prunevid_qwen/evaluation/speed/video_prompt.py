"""Prompts from real video files: generated clips of moving shapes, or one's own; and how long reading them takes."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.evaluation.speed.model_shapes import MERGE
from prunevid_qwen.evaluation.speed.random_prompt import PromptSize, around
from prunevid_qwen.inputs.qwen.media import MediaReader
from prunevid_qwen.inputs.qwen.pixels import PixelOptions
from prunevid_qwen.moving_shapes import FIRST_HELD_OUT_SEED, make_scene, render, write_video

GENERATED = "generated"
_SPARSE = 4  # a generated file has so many frames for each one that is sampled


def read_prompt(
    source: str, size: PromptSize, model: Any, media: MediaReader | None, folder: Path, repeats: int
) -> tuple[PromptSize, dict[str, Any], dict[str, Any]]:
    """Read a prompt's videos from files.

    Args:
        source: "generated", or a video file or folder of frames.
        size: wanted.
        model: whose tokens, device and dtype to take.
        media: reads as the model wants it; None takes the stock settings with small frames allowed.
        folder: where generated files are written.
        repeats: how often the first row's video is read for the clock, after once for warm-up.

    Returns:
        The size that the reader made; inputs as `generate` takes them; and of the first row's video ``seconds`` of
        each reading (decoding, resizing, cutting into patches) and what the reader says of it, ``video``.

    Raises:
        ConfigError: several rows would show the one file, so that stage 1 would decide once for all.
        MediaError: the file is missing or unreadable.
    """
    if source != GENERATED and size.batch > 1:
        raise ConfigError("--video FILE would show every row of a batch the same: pass --batch 1, or --video generated")
    if media is None:
        media = MediaReader(video=PixelOptions(min_pixels=4 * 28 * 28, max_pixels=768 * 28 * 28))
    config = PruneVidConfig(
        max_frames=max(2, size.frames), max_pixels=size.rows * 28 * size.columns * 28, video_time_limit=None
    )
    files = [source] if source != GENERATED else [str(_draw(size, row, folder)) for row in range(size.batch)]
    first, *others = [media.read_video(file, config) for file in files]
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        media.read_video(files[0], config)
        seconds.append(time.perf_counter() - start)
    t, h, w = first.grid[0].tolist()
    real = replace(size, frames=2 * t, rows=h // MERGE, columns=w // MERGE)
    parameter = next(model.parameters())
    pixels = torch.cat([first.pixels, *(medium.pixels for medium in others)])
    inputs = around(pixels, first.seconds_per_grid, real, model.config, parameter.device, parameter.dtype)
    return real, inputs, {"seconds": seconds, "video": first.facts}


def _draw(size: PromptSize, row: int, folder: Path) -> Path:
    path = folder / f"shapes_{size.frames}_{size.rows}x{size.columns}_{row}.mp4"
    if not path.exists():
        scene = make_scene(FIRST_HELD_OUT_SEED + row, height=28 * size.rows, width=28 * size.columns)
        folder.mkdir(parents=True, exist_ok=True)
        write_video(path, render(scene, frames=_SPARSE * size.frames))
    return path
