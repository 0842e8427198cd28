"""Prompts of a given size: one video and some text a row, from a seed. This is the published generator of the pixels.

Stage 1's outcome depends on what is seen, so a video is a still picture of which a share of the locations changes
completely from one temporal position to the next: none ("still"), half of them ("half") or all ("moving"). Everywhere
lies a little noise, as on any camera. Random weights turn random pixels into random features: which locations count as
static is realistic, what they would mean to a trained model is not. The share of tokens that stage 1 really left
(R1) stands beside every result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from prunevid_qwen.config.option_checks import unknown
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.evaluation.speed.model_shapes import CHANNELS, FIRST_WORD, MERGE, PATCH, PATCH_FRAMES

MOVING_SHARE = {"still": 0.0, "half": 0.5, "moving": 1.0}
NOISE = 0.02  # of a pixel's standard deviation


@dataclass(frozen=True)
class PromptSize:
    """How much every row of a batch holds.

    Args:
        frames: of its video; two make a temporal position.
        rows, columns: tokens of a position.
        text_tokens: beside the video, at least 4; a third of them before it.
        content: of the video: "still", "half" or "moving".
        batch: rows, each with a video of its own.
    """

    frames: int
    rows: int
    columns: int
    text_tokens: int = 60
    content: str = "half"
    batch: int = 1

    def __post_init__(self) -> None:
        if self.content not in MOVING_SHARE:
            raise ConfigError(unknown("content is one of", self.content, tuple(MOVING_SHARE)))
        if self.text_tokens < 4:
            raise ConfigError(f"text_tokens is at least 4 (a question and the video's marks), got {self.text_tokens}")
        for name in ("frames", "rows", "columns", "batch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is at least 1, got {getattr(self, name)}")

    @property
    def positions(self) -> int:
        """Temporal positions; a last frame without a partner is shown twice, as the model's own reader does."""
        return -(-self.frames // PATCH_FRAMES)

    @property
    def visual_tokens(self) -> int:
        """Tokens of one row's video."""
        return self.positions * self.rows * self.columns

    @property
    def words_before(self) -> int:
        """Text tokens before the video's opening mark: a third of the words."""
        return (self.text_tokens - 2) // 3

    @property
    def question_tokens(self) -> int:
        """Text tokens after the video, its closing mark among them."""
        return self.text_tokens - self.words_before - 1

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
    video += NOISE * torch.randn(video.shape, generator=generator)
    return video.view(size.positions * cells * MERGE * MERGE, -1)


def make_inputs(
    size: PromptSize, config: Any, device: torch.device, dtype: torch.dtype, seed: int = 0
) -> dict[str, Any]:
    """Make what `generate` takes of random pixels and words.

    Args:
        size: of the prompt.
        config: of the model: its special tokens and vocabulary.
        device, dtype: of the model.
        seed: of pixels and words.
    """
    pixels = torch.cat([pixels_of(size, 1000 * seed + row) for row in range(size.batch)])
    return around(pixels, 1.0, size, config, device, dtype, seed)


def around(
    pixels: Tensor, seconds: float, size: PromptSize, config: Any, device: torch.device, dtype: torch.dtype,
    seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Write random words around videos.

    Args:
        pixels: [patches, 1176] of all rows.
        seconds: of a temporal position.
        size: of the prompt; its frames, rows and columns are those of the pixels.
        config, device, dtype, seed: as in `make_inputs`.
    """
    generator = torch.Generator().manual_seed(seed)
    special = [getattr(config, f"{name}_token_id") for name in ("image", "video", "vision_start", "vision_end")]
    known = torch.arange(FIRST_WORD, min(config.get_text_config().vocab_size, 100_000))
    known = known[~torch.isin(known, torch.tensor(special))]
    words = known[torch.randint(len(known), (size.batch, size.text_tokens - 2), generator=generator)]
    head = size.words_before
    ones = torch.ones(size.batch, 1, dtype=torch.long)
    ids = torch.cat([
        words[:, :head], ones * config.vision_start_token_id,
        (ones * config.video_token_id).expand(-1, size.visual_tokens), ones * config.vision_end_token_id,
        words[:, head:],
    ], dim=1)  # fmt: skip
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": 2 * (ids == config.video_token_id).int(),
        "pixel_values_videos": pixels.to(dtype),
        "video_grid_thw": torch.tensor([[size.positions, MERGE * size.rows, MERGE * size.columns]] * size.batch),
        "second_per_grid_ts": torch.full((size.batch,), float(seconds)),
    }
    return {name: value.to(device) for name, value in inputs.items()}
