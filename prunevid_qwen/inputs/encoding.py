"""The videos of one call, encoded before the prompt is built: each once, in chunks, while the next chunk is read.

Only when the last frame has been decoded is it known how many there are; so the prompt, which needs that number, is
built afterwards, and the stock `generate` is answered from memory (`prunevid_qwen.adapters.vision`).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from prunevid_qwen.adapters.vision import EncodedVideos, Features, is_placeholder
from prunevid_qwen.config.media_reading import Reading
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.inputs.qwen.feed import Chunk, VideoFeed
from prunevid_qwen.inputs.qwen.media import Medium
from prunevid_qwen.inputs.qwen.preprocessor import PromptSource
from prunevid_qwen.tokens.device import input_device
from prunevid_qwen.tokens.trace import Timestamp
from prunevid_qwen.video.clip import Clip
from prunevid_qwen.video.picture import Picture
from prunevid_qwen.vision.carried import Carried
from prunevid_qwen.vision.equal_frames import Spreading
from prunevid_qwen.vision.identical import planned_ahead
from prunevid_qwen.vision.options import vision_options

# (frames encoded so far, frames in all), of all videos of the call
Progress = Callable[[int, int], None]
AnyMedium = Medium | VideoFeed | Picture | Clip


class Encoding:
    """Encodes the videos of one call.

    Args:
        videos: keeps the features; None where the model encodes what it is shown itself, so that nothing is done here.
        media: everything that the call shows, repeated things too.
        progress: told after each chunk; where damage makes a video begin anew it counts back.
        reading: of the config: what it asks of the vision encoder.
    """

    def __init__(
        self,
        videos: EncodedVideos | None,
        media: Iterable[AnyMedium],
        progress: Progress | None = None,
        reading: Reading | None = None,
    ) -> None:
        self._held, self._progress, self._vision = videos, progress, vision_options(reading or Reading())
        self._feeds = list({id(each): each for each in media if isinstance(each, VideoFeed)}.values())
        self._frames = 0  # of finished videos
        self._made: dict[int, tuple[AnyMedium, Medium]] = {}  # the first keeps its id from being given anew
        self.waited = 0.0  # seconds in which no encoder ran: reading that it did not hide
        self.encoded = 0.0  # seconds of the encoder

    @property
    def _videos(self) -> EncodedVideos:
        assert self._held is not None, "a frontend that opens videos encodes them ahead"
        return self._held

    def encode(self, given: AnyMedium) -> Medium | Picture | Clip:
        """Return what goes into the prompt; the same video is encoded once, images only by `encode_images`."""
        if isinstance(given, (Picture, Clip)):
            return given
        if isinstance(given, Medium) and given.kind == "image":
            return self._made.get(id(given), (given, given))[1]
        if id(given) not in self._made:
            began = time.perf_counter()
            medium, busy = self._fed(given) if isinstance(given, VideoFeed) else self._whole(given)
            # on a GPU the encoder runs on while this thread waits for frames: that is not counted twice
            encoded = sum(start.seconds_until(stop) for start, stop in busy)
            self.encoded += encoded
            self.waited += max(0.0, time.perf_counter() - began - encoded)
            self._made[id(given)] = given, medium
        return self._made[id(given)][1]

    def of_prompt(self, opened: PromptSource) -> PromptSource:
        """Return a prompt with its videos encoded."""
        return dataclasses.replace(opened, media=tuple(map(self.encode, opened.media)))

    def encode_images(self, media: Iterable[AnyMedium]) -> None:
        """Encode the images among ``media`` too, in one call as the stock model, so that they are encoded once."""
        images = list({id(each): each for each in media if isinstance(each, Medium) and each.kind == "image"}.values())
        if not images:
            return
        busy: list[tuple[Timestamp, Timestamp]] = []
        pixels, grids = torch.cat([each.pixels for each in images]), torch.cat([each.grid for each in images])
        whole = self._timed(pixels, grids, busy)
        self.encoded += sum(start.seconds_until(stop) for start, stop in busy)
        at, patches = 0, len(pixels) // len(whole.tokens)  # of a token
        for each in images:
            size = len(each.pixels) // patches
            part = Features(*(None if p is None else p[at : at + size] for p in whole))  # type: ignore[arg-type]
            self._made[id(each)] = each, dataclasses.replace(each, pixels=self._videos.hold(part))
            at += size

    def _fed(self, feed: VideoFeed) -> tuple[Medium, list[tuple[Timestamp, Timestamp]]]:
        busy: list[tuple[Timestamp, Timestamp]] = []
        whole, grid, at, positions, carried, spreading = _Whole(), torch.empty(0), 0, 0, Carried(), Spreading()
        for chunk in feed:
            if chunk is None:
                at, positions, carried, spreading = 0, 0, Carried(), Spreading()
                self._tell(feed, 0)
                continue
            if chunk.encoded is not None:
                carried.give(chunk.encoded, positions + chunk.positions < chunk.whole)
            part = self._chunk(chunk, None if chunk.encoded is None else carried, spreading, busy)
            size = len(part.tokens)
            whole.write(part, at, chunk.whole * size // chunk.positions)
            at, positions, grid = at + size, positions + chunk.positions, chunk.grid
            self._tell(feed, positions / chunk.whole)
        grid = torch.tensor([[positions, *grid[0, 1:].tolist()]])
        seconds_per_grid, facts = feed.facts(grid)
        self._frames += feed.frames
        return Medium("video", self._videos.hold(whole.features), grid, seconds_per_grid, facts), busy

    def _chunk(
        self, chunk: Chunk, reuse: Carried | None, spreading: Spreading, busy: list[tuple[Timestamp, Timestamp]]
    ) -> Features:
        """Encode a chunk, and copy to the positions that its reader left out."""
        if chunk.sources is None:
            return self._timed(chunk.pixels, chunk.grid, busy, reuse)
        with planned_ahead():
            made = self._timed(chunk.pixels, chunk.grid, busy, reuse) if len(chunk.pixels) else None
        return spreading.features(made, chunk.sources, numbered=reuse is not None)

    def _whole(self, medium: Medium) -> tuple[Medium, list[tuple[Timestamp, Timestamp]]]:
        if is_placeholder(medium.pixels):
            raise ConfigError("this video was encoded elsewhere and has no pixels: pass the video itself")
        busy: list[tuple[Timestamp, Timestamp]] = []
        planned = medium.planned_for
        if planned is not None and planned.copies != self._vision.copies and self._vision.reuses:
            raise ConfigError(
                f"this video was read for reuse_threshold={planned.reuse_threshold}, early_tau={planned.early_tau} and "
                f"early_block={planned.early_block}, and this config asks for {self._vision.reuse_threshold}, "
                f"{self._vision.early_tau} and {self._vision.early_block}: read it with the config that answers"
            )
        reuse = None if medium.encoded is None else Carried(medium.encoded)
        held = self._videos.hold(self._timed(medium.pixels, medium.grid, busy, reuse))
        return Medium("video", held, medium.grid, medium.seconds_per_grid, medium.facts), busy

    def _timed(
        self, pixels: Tensor, grid: Tensor, busy: list[tuple[Timestamp, Timestamp]], reuse: Carried | None = None
    ) -> Features:
        device = input_device(self._videos.tower)
        start = Timestamp.now(device)
        features = self._videos.encode(pixels, grid, reuse)
        busy.append((start, Timestamp.now(device)))
        return features

    def _tell(self, feed: VideoFeed, share: float) -> None:
        if self._progress is not None:
            self._progress(self._frames + round(share * feed.frames), sum(each.frames for each in self._feeds))


class _Whole:
    """The features of a video that arrives in parts: made whole at the first part, not joined at the end."""

    features: Features

    def write(self, part: Features, at: int, size: int) -> None:
        """Put a part in its place; the first one, at 0, begins a whole of ``size`` tokens."""
        if not at:
            whole = size == len(part.tokens)
            made = [p if p is None or whole else p.new_empty(size, *p.shape[1:]) for p in part]
            self.features = Features(*made)  # type: ignore[arg-type]
        for held, own in zip(self.features, part, strict=True):
            if held is not None and own is not None and held is not own:
                held[at : at + len(own)] = own
