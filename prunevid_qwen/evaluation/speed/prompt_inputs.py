"""Prompts of a given size, one video and some text a row: of random pixels, which this file publishes, or of files.

Stage 1's outcome depends on what is seen, so a random video is a still picture of which a share of the locations
changes completely from one temporal position to the next, and everywhere lies a little noise. Which locations count as
static is realistic, what they would mean to a trained model is not: R1, the share of tokens that stage 1 really left,
stands beside every result.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.config.option_checks import check_count, unknown
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.evaluation.speed.model_shapes import CHANNELS, FIRST_WORD, MERGE, PATCH, PATCH_FRAMES
from prunevid_qwen.inputs.qwen.media import MediaReader
from prunevid_qwen.inputs.qwen.pixels import PixelOptions
from prunevid_qwen.moving_shapes import FIRST_HELD_OUT_SEED, make_scene, render, write_video

MOVING_SHARE = {"still": 0.0, "half": 0.5, "moving": 1.0}
GENERATED = "generated"


@dataclass(frozen=True)
class PromptSize:
    """How much every row of a batch holds."""

    frames: int  # of its video; two make a temporal position, a last one without a partner is shown twice
    rows: int  # of tokens of a position, as columns
    columns: int
    text_tokens: int = 60  # beside the video, at least 4: its two marks, and words of which a third stand before it
    content: str = "half"  # of the video: "still", "half" or "moving"
    batch: int = 1  # rows, each with a video of its own

    def __post_init__(self) -> None:
        if self.content not in MOVING_SHARE:
            raise ConfigError(unknown("content is one of", self.content, tuple(MOVING_SHARE)))
        check_count("text_tokens", self.text_tokens, 4)  # a question and the video's marks
        for name in ("frames", "rows", "columns", "batch"):
            check_count(name, getattr(self, name), 1)

    @property
    def positions(self) -> int:
        """Temporal positions."""
        return -(-self.frames // PATCH_FRAMES)

    @property
    def visual_tokens(self) -> int:
        """Tokens of one row's video."""
        return self.positions * self.rows * self.columns

    @property
    def question_tokens(self) -> int:
        """Text tokens after the video, its closing mark among them."""
        return self.text_tokens - (self.text_tokens - 2) // 3 - 1

    @property
    def length(self) -> int:
        """Tokens of one row."""
        return self.visual_tokens + self.text_tokens


def pixels_of(size: PromptSize, random_seed: int) -> Tensor:
    """Draw one video as the vision tower takes it.

    Returns:
        [patches, 1176] fp32, of mean 0 and variance about 1; the ``MERGE``² patches of a token follow each other.
    """
    generator = torch.Generator().manual_seed(random_seed)
    cells = size.rows * size.columns
    width = MERGE * MERGE * CHANNELS * PATCH_FRAMES * PATCH * PATCH
    still = torch.randn(1, cells, width, generator=generator)
    moving = torch.randperm(cells, generator=generator)[: round(MOVING_SHARE[size.content] * cells)]
    video = still.expand(size.positions, -1, -1).clone()
    video[:, moving] = torch.randn(size.positions, len(moving), width, generator=generator)
    video += 0.02 * torch.randn(video.shape, generator=generator)
    return video.view(size.positions * cells * MERGE * MERGE, -1)


def make_inputs(size: PromptSize, model: Any, pixels: Tensor | None = None, seconds: float = 1.0) -> dict[str, Any]:
    """Make what a model's `generate` takes: random words around videos, one a row.

    ``pixels`` are those of all videos, [patches, 1176], None draws them; ``seconds`` are of a temporal position.
    """
    pixels = torch.cat([pixels_of(size, row) for row in range(size.batch)]) if pixels is None else pixels
    config, generator = model.config, torch.Generator().manual_seed(0)
    special = [getattr(config, f"{name}_token_id") for name in ("image", "video", "vision_start", "vision_end")]
    known = torch.arange(FIRST_WORD, min(config.get_text_config().vocab_size, 100_000))
    known = known[~torch.isin(known, torch.tensor(special))]
    words = known[torch.randint(len(known), (size.batch, size.text_tokens - 2), generator=generator)]
    head, after = words.split([size.text_tokens - size.question_tokens - 1, size.question_tokens - 1], dim=1)
    _, video, start, end = (torch.full((size.batch, 1), each) for each in special)
    ids = torch.cat([head, start, video.expand(-1, size.visual_tokens), end, after], dim=1)
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": 2 * (ids == config.video_token_id).int(),
        "pixel_values_videos": pixels.to(model.dtype),
        "video_grid_thw": torch.tensor([[size.positions, MERGE * size.rows, MERGE * size.columns]] * size.batch),
        "second_per_grid_ts": torch.full((size.batch,), seconds),
    }
    return {name: value.to(model.device) for name, value in inputs.items()}


def read_prompt(
    source: str, size: PromptSize, model: Any, media: MediaReader | None, folder: Path, repeats: int
) -> tuple[PromptSize, dict[str, Any], dict[str, Any]]:
    """Read a prompt's videos from files.

    Args:
        source: "generated" into ``folder``, or a video file or folder of frames.
        size: wanted; that of the inputs is what the reader makes of it.
        media: reads as the model wants it; None takes the stock settings with small frames allowed.
        repeats: readings of the first row's video that count, after one that does not.

    Returns:
        The size; inputs as `generate` takes them; and of the first row's video ``seconds`` of each reading (decoding,
        resizing, cutting into patches) and what the reader says of it, ``video``.

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
    files = [_draw(size, row, folder) for row in range(size.batch)] if source == GENERATED else [source]
    first, *others = [media.read_video(file, config) for file in files]
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        media.read_video(files[0], config)
        seconds.append(time.perf_counter() - start)
    t, h, w = first.grid[0].tolist()
    real = replace(size, frames=2 * t, rows=h // MERGE, columns=w // MERGE)
    pixels = torch.cat([first.pixels, *(medium.pixels for medium in others)])
    inputs = make_inputs(real, model, pixels, float(first.seconds_per_grid))
    return real, inputs, {"seconds": seconds, "video": first.facts}


def _draw(size: PromptSize, row: int, folder: Path) -> str:
    path = folder / f"shapes_{size.frames}_{size.rows}x{size.columns}_{row}.mp4"
    if not path.exists():
        scene = make_scene(FIRST_HELD_OUT_SEED + row, height=28 * size.rows, width=28 * size.columns)
        folder.mkdir(parents=True, exist_ok=True)
        write_video(path, render(scene, frames=4 * size.frames))  # four frames for each one that is sampled
    return str(path)
