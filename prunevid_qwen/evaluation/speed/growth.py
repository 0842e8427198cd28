"""Stage 1 alone on videos up to an hour: how its time grows with the video's length, and what memory it takes."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prunevid_qwen.config import PruneVidConfig, get_paper_config
from prunevid_qwen.evaluation.report.intervals import Quantiles
from prunevid_qwen.evaluation.speed.memory import peak_memory
from prunevid_qwen.evaluation.speed.timed_run import synchronise
from prunevid_qwen.evaluation.store import Progress
from prunevid_qwen.forward.plan import compile_plan
from prunevid_qwen.reducer import Evidence
from prunevid_qwen.tokens import Block, TokenLayout

GROWTH = "growth"
POSITIONS = (56, 112, 225, 450, 900, 1800)
"""Temporal positions, two frames each: 1,800 are an hour at one frame a second."""

ROWS, COLUMNS, CHANNELS = 10, 14, 512
_SCENE = 20  # positions between two cuts
_REPEATS = 5


def video_features(positions: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Make the tokens of a video: scenes of 20 positions, each a still picture of which half the locations move.

    Returns:
        [T, rows, columns, C] with a noise of a tenth of the signal.
    """
    generator = torch.Generator(device).manual_seed(0)
    size = (ROWS * COLUMNS, CHANNELS)
    video = torch.empty(positions, *size, device=device, dtype=dtype)
    moves = torch.arange(size[0], device=device) % 2 == 1
    for start in range(0, positions, _SCENE):
        scene = torch.randn(size, device=device, generator=generator)
        part = scene + 0.1 * torch.randn(video[start : start + _SCENE].shape, device=device, generator=generator)
        part[:, moves] = torch.randn(part[:, moves].shape, device=device, generator=generator)
        video[start : start + _SCENE] = part.to(dtype)
    return video.view(positions, ROWS, COLUMNS, CHANNELS)


def stage1_seconds(features: Tensor, config: PruneVidConfig) -> tuple[float, int]:
    """Time stage 1 of one video as it stands at the decoder's door: decide, then average.

    Returns: seconds and tokens left.
    """
    door = compile_plan(config, 28).door
    assert door is not None
    grid = (features.shape[0], features.shape[1], features.shape[2])
    tokens = features.view(math.prod(grid), -1)
    place = torch.arange(tokens.shape[0], device=features.device)
    block = Block("video", grid, 0, tokens.shape[0])
    layout = TokenLayout(tokens.shape[0], place, place[:0], (block,), torch.zeros_like(place))
    with torch.inference_mode():
        synchronise(features.device)
        start = time.perf_counter()
        merged = door.by.plan(Evidence(layout, tokens, tokens[:0]))
        merged.mean(tokens)
        synchronise(features.device)
        return time.perf_counter() - start, merged.n_out


def measure_growth(
    device: torch.device,
    dtype: torch.dtype,
    tell: Progress = lambda *_: None,
    positions: Sequence[int] = POSITIONS,
) -> dict[str, Any]:
    """Time stage 1 of the paper's preset over growing videos.

    Returns: for each length its frames, tokens before and after, seconds and peak bytes above the features; and the
        exponent of time against length, fitted to the medians (1 is linear).
    """
    config = get_paper_config()
    points: list[dict[str, Any]] = []
    for number, length in enumerate(positions):
        tell("stage 1 against frames", number, len(positions))
        features = video_features(length, device, dtype)
        with peak_memory(device) as memory:  # also the warm-up
            _, left = stage1_seconds(features, config)
        seconds = [stage1_seconds(features, config)[0] for _ in range(_REPEATS)]
        points.append({
            "frames": 2 * length, "positions": length, "tokens": length * ROWS * COLUMNS, "after_stage1": left,
            "seconds": Quantiles.of(seconds).to_dict(), "memory": memory,
            "input_bytes": features.numel() * features.element_size(),
        })  # fmt: skip
    tell("stage 1 against frames", len(positions), len(positions))
    frames, medians = [point["frames"] for point in points], [point["seconds"]["median"] for point in points]
    return {
        "kind": GROWTH, "grid": [ROWS, COLUMNS], "channels": CHANNELS, "dtype": str(dtype).removeprefix("torch."),
        "points": points, "exponent": float(np.polyfit(np.log(frames), np.log(medians), 1)[0]),
    }  # fmt: skip
