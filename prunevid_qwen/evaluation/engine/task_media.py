"""Media of a task to frames of their final size, uint8: the part of the work that needs no model, in any process."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.errors import MediaError
from prunevid_qwen.evaluation.datasets.record import Media
from prunevid_qwen.evaluation.protocol.protocol import EvalProtocol
from prunevid_qwen.evaluation.protocol.samplers import Sampled
from prunevid_qwen.inputs.frontends import check_own_reading
from prunevid_qwen.inputs.qwen.media import MediaReader
from prunevid_qwen.inputs.qwen.pixels import PixelOptions, fitted_frame
from prunevid_qwen.loading import HUB_ARGUMENTS, bundled_model
from prunevid_qwen.video.data_uris import named
from prunevid_qwen.video.frames import read_picture
from prunevid_qwen.video.indexed import read_frames


def media_reader(model_path: str, loading: dict[str, Any]) -> MediaReader:
    """Return how a model wants its media, read from its files; it is an `UnsupportedError` if it is no Qwen-VL."""
    source = bundled_model() if model_path == "bundled" else model_path
    hub = {name: loading[name] for name in HUB_ARGUMENTS if loading.get(name) is not None}
    check_own_reading(source, hub)
    return MediaReader.from_pretrained(source, **hub)


@dataclass(frozen=True, eq=False)
class ReadMedia:
    """One video or image, read and resized; uint8 is a quarter of the bytes of its patches: it goes through pipes."""

    kind: str  # "video" or "image"
    frames: np.ndarray  # uint8 RGB [T, h, w, 3]; T is 1 for an image, else even
    seconds_per_grid: float  # what the model is told of time; 1.0 for an image
    timestamps: tuple[float, ...]  # seconds of the frames taken, without padding; () for an image
    facts: dict[str, Any]  # what is stored with an answer


@dataclass(frozen=True, eq=False, kw_only=True)
class HeldImage(Media):
    """An image that a data set holds itself, and no file; ``path`` says whose it is, and tells it from others."""

    image: np.ndarray  # uint8 RGB [h, w, 3]
    note: str | None = None  # what was done to its colours


@dataclass(frozen=True)
class LimitedImage(Media):
    """An image that configs read with at most so many pixels; None is the model's own limit."""

    max_pixels: int | None = None


@dataclass(frozen=True)
class ByProtocol:
    """Reads media as a benchmark's protocol says."""

    protocol: EvalProtocol
    video: PixelOptions  # how the model wants them; the protocol's limits replace theirs
    image: PixelOptions
    backend: str = "pyav"
    time_limit: float | None = 120.0

    def read(self, media: Media) -> ReadMedia:
        """Read one video, folder of frames or image; a `MediaError` says that nothing could be read."""
        if media.kind == "image":
            return _image(media, self._limits(self.image, 1))
        chosen: list[Sampled] = []

        def choose(count: int, fps: float) -> tuple[int, ...]:
            chosen.append(self.protocol.sample(count, fps, media.start, media.end, int(media.kind == "frames")))
            return chosen[-1].indices

        def fit(frame: np.ndarray) -> np.ndarray:
            return fitted_frame(frame, self._limits(self.video, len(chosen[-1].indices)))

        found = read_frames(
            media.path, choose, fit=fit, fps=media.fps or 2.0, backend=self.backend, time_limit=self.time_limit
        )
        frames, padded = found.frames, len(found.frames) % self.video.temporal_patch_size
        if padded:
            frames = np.concatenate([frames, frames[-1:]])
        seconds = chosen[-1].seconds_per_grid(self.protocol.seconds_per_grid)
        facts = {
            "source": media.path,
            "backend": found.backend,
            "start": media.start,
            "end": media.end,
            "source_frames": found.count,
            "source_fps": found.fps,
            "duration": found.duration,
            "indices": list(found.indices),
            "timestamps": list(found.timestamps),
            "padded": padded,
            "seconds_per_grid": seconds,
            "frame_pixels": self.protocol.frame_pixels(len(found.indices)),
            "size": list(found.size),
            "resized": list(frames.shape[1:3]),
            "warnings": list(found.warnings),
        }
        return ReadMedia("video", frames, seconds, found.timestamps, facts)

    def _limits(self, options: PixelOptions, frames: int) -> PixelOptions:
        return replace(options, min_pixels=self.protocol.min_pixels, max_pixels=self.protocol.frame_pixels(frames))


@dataclass(frozen=True)
class ByConfig:
    """Reads media as ``prunevid ask`` does."""

    config: PruneVidConfig  # how videos are sampled and resized
    video: PixelOptions  # how the model wants them
    image: PixelOptions

    def read(self, media: Media) -> ReadMedia:
        """Read one video, folder of frames or image; as `ByProtocol` raises."""
        if media.kind == "image":
            limit = media.max_pixels if isinstance(media, LimitedImage) else self.config.max_pixels
            return _image(media, self.image if limit is None else replace(self.image, max_pixels=limit))
        given = {name: value for name in ("start", "end", "fps") if (value := getattr(media, name)) is not None}
        frames, seconds, facts = MediaReader(self.video, self.image).read_fitted(media.path, self.config, **given)
        return ReadMedia("video", frames, seconds, tuple(facts["timestamps"]), facts)


def _image(media: Media, options: PixelOptions) -> ReadMedia:
    image, note = (media.image, media.note) if isinstance(media, HeldImage) else read_picture(media.path)
    frame, source = fitted_frame(image, options), named(media.path)
    facts: dict[str, Any] = {"source": source, "size": list(image.shape[:2]), "resized": list(frame.shape[:2])}
    if note is not None:
        facts["warnings"] = [f"{source}: {note}"]
    return ReadMedia("image", frame[None], 1.0, (), facts)


MediaReading = ByProtocol | ByConfig


@dataclass(frozen=True, eq=False)
class Read:
    """What became of a task's media."""

    media: tuple[ReadMedia, ...]  # in order; () where there is an error
    error: str | None  # why they could not be read
    seconds: float  # that reading took


def read_media(reading: MediaReading, media: tuple[Media, ...]) -> Read:
    """Read the media of a task; what is wrong with them becomes its error, not the end of the run."""
    began, said = time.perf_counter(), None
    found: tuple[ReadMedia, ...] = ()
    try:
        found = tuple(reading.read(each) for each in media)
    except (MediaError, OSError, MemoryError) as error:
        said = str(error) or "not enough memory to read it: take fewer frames, or smaller ones"
    return Read(found, said, time.perf_counter() - began)
