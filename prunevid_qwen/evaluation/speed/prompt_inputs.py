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
from prunevid_qwen.evaluation.speed.model_shapes import FIRST_WORD
from prunevid_qwen.evaluation.speed.prompt_forms import CHANNELS, PromptForm
from prunevid_qwen.inputs.qwen.media import MediaReader
from prunevid_qwen.inputs.qwen.pixels import PixelOptions
from prunevid_qwen.moving_shapes import FIRST_HELD_OUT_SEED, make_scene, render, write_video

MOVING_SHARE = {"still": 0.0, "half": 0.5, "moving": 1.0}
GENERATED = "generated"


_QWEN = PromptForm("video", patch=14, frames=2, merge=2, brackets="whole", typed=True, timed=True)


@dataclass(frozen=True)
class PromptSize:
    """How much every row of a batch holds."""

    frames: int  # of its video; where two make a temporal position, a last one without a partner is shown twice
    rows: int  # of tokens of a position, as columns
    columns: int
    text_tokens: int = 60  # beside frames and their times, at least 4: two marks, words of which a third stand before
    content: str = "half"  # of the video: "still", "half" or "moving"
    batch: int = 1  # rows, each with a video of its own
    form: PromptForm = _QWEN  # how the model's family writes it

    def __post_init__(self) -> None:
        if self.content not in MOVING_SHARE:
            raise ConfigError(unknown("content is one of", self.content, tuple(MOVING_SHARE)))
        check_count("text_tokens", self.text_tokens, 4)  # a question and the video's marks
        for name in ("frames", "rows", "columns", "batch"):
            check_count(name, getattr(self, name), 1)
        if self.form.grid not in (None, (self.rows, self.columns)):
            fixed, asked = ("x".join(map(str, each)) for each in (self.form.grid, (self.rows, self.columns)))
            raise ConfigError(f"every frame has {fixed} tokens in this model, got grid={asked}: leave the grid out")

    @property
    def positions(self) -> int:
        """Temporal positions."""
        return -(-self.frames // self.form.frames)

    @property
    def visual_tokens(self) -> int:
        """Tokens of one row's video."""
        return self.form.visual(self.positions, self.rows * self.columns)

    @property
    def words(self) -> tuple[int, int]:
        """Text tokens before and after all that belongs to the video."""
        count = self.text_tokens - self.form.marks
        return count // 3, count - count // 3

    @property
    def all_text(self) -> int:
        """Text tokens of one row: words, and what stands around the frames."""
        return sum(self.words) + self.form.text(self.positions)

    @property
    def question_tokens(self) -> int:
        """Text tokens after the video, its closing mark among them."""
        return self.words[1] + self.form.marks // 2

    @property
    def length(self) -> int:
        """Tokens of one row."""
        return self.visual_tokens + self.all_text


def pixels_of(size: PromptSize, random_seed: int) -> Tensor:
    """Draw one video as the vision tower takes it, of mean 0 and variance about 1.

    Returns:
        fp32 [patches, channels x frames x patch x patch], the patches of a token one after the other; [T, 3, H, W]
        where the model takes whole images, [T, tiles, 3, H, W] where these have tiles.
    """
    generator = torch.Generator().manual_seed(random_seed)
    form, cells = size.form, size.rows * size.columns
    moving = torch.randperm(cells, generator=generator)[: round(MOVING_SHARE[size.content] * cells)]
    if not form.merge:
        return _images_of(size, moving, generator)
    width = form.merge**2 * CHANNELS * form.frames * form.patch**2
    still = torch.randn(1, cells, width, generator=generator)
    video = still.expand(size.positions, -1, -1).clone()
    video[:, moving] = torch.randn(size.positions, len(moving), width, generator=generator)
    video += 0.02 * torch.randn(video.shape, generator=generator)
    return video.view(size.positions * cells * form.merge**2, -1)


def _images_of(size: PromptSize, moving: Tensor, generator: torch.Generator) -> Tensor:
    form, side = size.form, size.form.side * size.form.patch
    tiles = (form.tiles, CHANNELS, side, side)
    moves = torch.zeros(size.rows * size.columns, dtype=torch.bool)
    moves[moving] = True
    down, across = (torch.arange(side) * count // side for count in (size.rows, size.columns))
    where = moves.view(size.rows, size.columns)[down][:, across]  # of each pixel
    video = torch.randn(1, *tiles, generator=generator).expand(size.positions, *tiles).clone()
    video[..., where] = torch.randn(size.positions, *tiles[:2], int(where.sum()), generator=generator)
    video += 0.02 * torch.randn(video.shape, generator=generator)
    return video if form.tiles > 1 else video[:, 0]


def make_inputs(size: PromptSize, model: Any, pixels: Tensor | None = None, seconds: float = 1.0) -> dict[str, Any]:
    """Make what a model's `generate` takes: random words around videos, one a row.

    ``pixels`` are those of all videos, as `pixels_of` returns them, one after the other, None draws them; ``seconds``
    are of a temporal position.
    """
    form, config, rows = size.form, model.config, size.batch
    if pixels is None:
        pixels = torch.cat([pixels_of(size, row) for row in range(rows)])
    names = [f"{name}_token_id" for name in ("image", "video", "vision_start", "vision_end")]
    special = [getattr(config, name, None) for name in names]
    known = torch.arange(FIRST_WORD, min(config.get_text_config().vocab_size, 100_000))
    known = known[~torch.isin(known, torch.tensor([each for each in special if each is not None]))]
    start, end = (known[0] if each is None else each for each in special[2:])
    generator = torch.Generator().manual_seed(0)

    def words(count: int) -> Tensor:
        return known[torch.randint(len(known), (rows, count), generator=generator)]

    def repeated(token: Any, count: int) -> Tensor:
        return torch.full((rows, count), int(token))

    shown = getattr(config, f"{form.kind}_token_id")
    head, after = words(sum(size.words)).split(size.words, dim=1)
    opening, closing = (repeated(mark, form.marks // 2) for mark in (start, end))
    frame = repeated(shown, size.rows * size.columns + form.more)
    ids = [head]
    if form.brackets == "each":
        ids += [part for _ in range(size.positions) for part in (words(form.times), opening, frame, closing)]
    else:
        ids += [opening, *[frame] * size.positions, repeated(shown, form.ends), closing]
    made = torch.cat([*ids, after], dim=1)
    inputs = {"input_ids": made, "attention_mask": torch.ones_like(made)}
    if form.typed:
        inputs["mm_token_type_ids"] = 2 * (made == shown).int()
    if form.stacked:
        pixels = pixels.unflatten(0, (rows, size.positions))
    inputs["pixel_values_videos" if form.kind == "video" else "pixel_values"] = pixels.to(model.dtype)
    if form.merge:
        grid = [size.positions, form.merge * size.rows, form.merge * size.columns]
        inputs["video_grid_thw"] = torch.tensor([grid] * rows)
    if form.tiles > 1:
        inputs["image_sizes"] = torch.tensor([[2 * form.side * form.patch] * 2] * (rows * size.positions))
    if form.timed:
        inputs["second_per_grid_ts"] = torch.full((rows,), seconds)
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
        ConfigError: several rows would show the one file, so that stage 1 would decide once for all; or the library's
            processor makes the pixels of this model.
        MediaError: the file is missing or unreadable.
    """
    if source != GENERATED and size.batch > 1:
        raise ConfigError("--video FILE would show every row of a batch the same: pass --batch 1, or --video generated")
    form, token = size.form, size.form.patch * size.form.merge  # side of a token in pixels
    if not form.merge:
        raise ConfigError("--video is for models whose frames this package cuts into patches: leave it out")
    if media is None:
        least, most = 4 * token**2, 768 * token**2
        sizes = PixelOptions(form.patch, form.frames, form.merge, min_pixels=least, max_pixels=most)
        media = MediaReader(video=sizes)
    config = PruneVidConfig(
        max_frames=max(2, size.frames), max_pixels=size.rows * token * size.columns * token, video_time_limit=None
    )
    files = [_draw(size, row, folder) for row in range(size.batch)] if source == GENERATED else [source]
    first, *others = [media.read_video(file, config) for file in files]
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        media.read_video(files[0], config)
        seconds.append(time.perf_counter() - start)
    t, h, w = first.grid[0].tolist()
    real = replace(size, frames=form.frames * t, rows=h // form.merge, columns=w // form.merge)
    pixels = torch.cat([first.pixels, *(medium.pixels for medium in others)])
    inputs = make_inputs(real, model, pixels, float(first.seconds_per_grid))
    return real, inputs, {"seconds": seconds, "video": first.facts}


def _draw(size: PromptSize, row: int, folder: Path) -> str:
    token = size.form.patch * size.form.merge
    path = folder / f"shapes_{size.frames}_{token * size.rows}x{token * size.columns}_{row}.mp4"
    if not path.exists():
        scene = make_scene(FIRST_HELD_OUT_SEED + row, height=token * size.rows, width=token * size.columns)
        folder.mkdir(parents=True, exist_ok=True)
        write_video(path, render(scene, frames=4 * size.frames))  # four frames for each one that is sampled
    return str(path)
