"""A video on its way to the vision encoder: read in chunks by a thread, with the facts for a receipt."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from prunevid_qwen.inputs.qwen.pixel_options import PixelOptions
from prunevid_qwen.inputs.qwen.pixels import video_pixels
from prunevid_qwen.video import FramesChanged, Video, VideoStream
from prunevid_qwen.video.prefetch import Prefetch
from prunevid_qwen.vision.carried import PixelPlanner
from prunevid_qwen.vision.equal_frames import SeenFrames, encoded_of, of_positions
from prunevid_qwen.vision.options import VisionOptions
from prunevid_qwen.vision.plan import PatchForm


@dataclass(frozen=True, eq=False)
class Chunk:
    """Some whole temporal positions of a video.

    Args:
        pixels: [patches, 1176] in the dtype asked for (Qwen3-VL: 1536).
        grid: [1, 3] int64 (t, h, w) in patches.
        whole: temporal positions of the whole video.
        encoded: [T, L] bool, as in `Medium`, planned by the pixels before they got their dtype.
        sources: of each of the chunk's temporal positions, which one it equals, see `SeenFrames.sources`; only those of
            `encoded_of` are in ``pixels`` and ``grid``. None: all are there.
    """

    pixels: Tensor
    grid: Tensor
    whole: int
    encoded: Tensor | None = None
    sources: Sequence[int] | None = None

    @property
    def positions(self) -> int:
        """Temporal positions, those that were left out too."""
        return int(self.grid[0, 0]) if self.sources is None else len(self.sources)


class VideoFeed:
    """A video that is opened and on its way: a thread reads, resizes and cuts the next chunk while one is used.

    Iterate it once, then ask for `facts`. `close` stops the thread at any time.

    Args:
        stream: the opened video.
        options: how the model wants frames.
        limits: ``max_pixels`` and ``total_pixels``.
        chunk_tokens: visual tokens of a chunk at most, but at least one temporal position; None gives one chunk.
        dtype: of the pixels.
        pin: put them into pinned memory, from which a GPU copies without waiting.
        vision: what may be a copy is planned here, in the thread that reads.
    """

    kind = "video"

    def __init__(
        self,
        stream: VideoStream,
        options: PixelOptions,
        limits: tuple[int, int | None],
        chunk_tokens: int | None,
        dtype: torch.dtype,
        pin: bool,
        vision: VisionOptions | None = None,
    ) -> None:
        self._once = vision is not None and vision.reuse_identical
        self._planner = None if vision is None or not vision.reuses else planner_of(vision, options)
        self._stream, self._options, self._limits = stream, options, limits
        self._chunk_tokens, self._dtype, self._pin = chunk_tokens, dtype, pin
        self._fitted()  # limits that contradict each other are refused on opening
        self._prefetch = Prefetch(self._chunks())

    def __iter__(self) -> Iterator[Chunk | None]:
        """Yield the video's chunks; None where damage came to light: what came before is void, all begins anew."""
        return self._prefetch

    def close(self) -> None:
        """Stop reading."""
        self._prefetch.close()

    @property
    def frames(self) -> int:
        """Frames that will be taken, as far as is known."""
        return self._stream.count

    def facts(self, grid: Tensor) -> tuple[float, dict[str, Any]]:
        """Return the seconds of a temporal position and what a receipt says, once all chunks have come.

        Args:
            grid: [1, 3] of the whole video.
        """
        video = self._stream.video()
        return video.seconds_per_grid, facts_of(video, grid, self._options)

    def _fitted(self) -> PixelOptions:
        return self._options.for_video(self._stream.taken, *self._stream.size, *self._limits)

    def _chunks(self) -> Iterator[Chunk | None]:
        depth = self._options.temporal_patch_size
        try:
            while True:
                if self._planner is not None:
                    self._planner.begin()
                seen = SeenFrames(depth) if self._once else None
                fit = self._fitted()
                rows, columns = fit.fit(*self._stream.size)
                tokens = (rows // self._options.factor) * (columns // self._options.factor)
                whole = math.ceil(self._stream.count / depth)
                at_once = whole if self._chunk_tokens is None else max(1, self._chunk_tokens // tokens)
                try:
                    for frames in self._stream.chunks(at_once * depth):
                        yield self._chunk(frames, fit, whole, seen)
                    return
                except FramesChanged:
                    yield None
        finally:
            self._stream.close()

    def _chunk(self, frames: Any, fit: PixelOptions, whole: int, seen: SeenFrames | None) -> Chunk:
        sources = None if seen is None else seen.sources(frames)
        if sources is not None:
            frames = of_positions(frames, encoded_of(sources), fit.temporal_patch_size)
        pixels, grid = video_pixels(frames, fit) if len(frames) else _no_pixels(fit, *self._stream.size)
        planner = self._planner if len(pixels) else None
        encoded = None if planner is None else planner.plan(pixels, int(grid[0, 0]))
        pixels = pixels.to(self._dtype)
        return Chunk(pixels.pin_memory() if self._pin else pixels, grid, whole, encoded, sources)


def _no_pixels(fit: PixelOptions, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return what `video_pixels` would of no frame."""
    rows, columns = (side // fit.patch_size for side in fit.fit(height, width))
    return torch.empty(0, 3 * fit.temporal_patch_size * fit.patch_size**2), torch.tensor([[0, rows, columns]])


def planner_of(vision: VisionOptions, options: PixelOptions) -> PixelPlanner:
    """Make what plans the chunks of one video, which become patches by ``options``."""
    form = PatchForm(options.patch_size, options.temporal_patch_size, options.image_std)
    return PixelPlanner(vision.reuse_threshold, form, options.merge_size**2)


def facts_of(video: Video, grid: Tensor, options: PixelOptions) -> dict[str, Any]:
    """Return what a receipt says of a video that was read; ``grid`` is [1, 3] in patches."""
    return {
        "source": video.source,
        "backend": video.backend,
        "frames": len(video.timestamps),
        "padded": video.padded,
        "timestamps": list(video.timestamps),
        "seconds_per_grid": video.seconds_per_grid,
        "duration": video.duration,
        "size": list(video.size),
        "resized": [int(side) * options.patch_size for side in grid[0, 1:]],
        "grid": merged_grid(grid, options.merge_size),
        "warnings": list(video.warnings),
    }


def merged_grid(grid: Tensor, merge: int) -> list[int]:
    """Return a grid of patches, [1, 3], in visual tokens."""
    t, h, w = grid[0].tolist()
    return [t, h // merge, w // merge]
