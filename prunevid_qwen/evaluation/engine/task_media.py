"""Media of a task to uint8 frames, in any process: the part of the work that needs no model.

Frames get their final size where this package makes a family's pixels. The library's processors give frames their size
themselves, in the process that answers: for them frames travel as they are.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from prunevid_qwen.bundled import source_of
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.errors import ConfigError, MediaError
from prunevid_qwen.evaluation.datasets.record import Media
from prunevid_qwen.evaluation.protocol.protocol import TOKEN_PIXELS, EvalProtocol
from prunevid_qwen.evaluation.protocol.samplers import Sampled
from prunevid_qwen.inputs.frontends import Frontend, check_own_reading, frontend_for, not_shown
from prunevid_qwen.inputs.frontends.stock import clip_of
from prunevid_qwen.inputs.qwen.media import MediaReader
from prunevid_qwen.inputs.qwen.pixels import PixelOptions, fitted_frame
from prunevid_qwen.inputs.qwen.preprocessor import Preprocessor
from prunevid_qwen.loading import HUB_ARGUMENTS, config_of
from prunevid_qwen.video.clip import Clip
from prunevid_qwen.video.data_uris import named
from prunevid_qwen.video.frames import read_picture
from prunevid_qwen.video.indexed import read_frames
from prunevid_qwen.video.picture import Picture

_SIZES = ("min_pixels", "max_pixels", "total_pixels")
_OF_TIME = ("seconds_per_grid", "position_scheme")


@dataclass(frozen=True)
class MediaWanted:
    """How a model wants its media, read from its files."""

    model_type: str
    shown: tuple[str, ...]  # kinds of media that it accepts, "video" and "image"
    video: PixelOptions | None  # None: frames keep their size until the library's processor gives them another
    image: PixelOptions | None

    @property
    def not_applied(self) -> tuple[str, ...]:
        """Choices of a protocol that its family does not heed: sizes are its processor's, and times its frontend's."""
        of_time = () if self.model_type == "qwen2_5_vl" else _OF_TIME
        return (*(_SIZES if self.video is None else ()), *of_time)

    @property
    def note(self) -> str | None:
        """Say what is not applied, or None."""
        if not self.not_applied:
            return None
        return f"not applied, because a {self.model_type} model has no such choices: {', '.join(self.not_applied)}"

    def check_shown(self, media: Iterable[Media]) -> None:
        """Refuse media of a kind that the model is not shown; `UnsupportedError`."""
        for kind in {"image" if each.kind == "image" else "video" for each in media}:
            if kind not in self.shown:
                raise not_shown(kind, self.model_type, self.shown)

    def check_asked(self, named: Iterable[str]) -> None:
        """Refuse options that somebody named and that would change nothing; `ConfigError`."""
        if idle := [name for name in named if name in self.not_applied]:
            raise ConfigError(
                f"{' and '.join(idle)} would change nothing: sizes and times of a {self.model_type} model are those of "
                "its own processor; leave it out"
            )

    @property
    def facts(self) -> dict[str, Any]:
        """What a run's record says of it: `not_applied`, and ``token_pixels`` where a token is not Qwen2.5-VL's."""
        own = None if self.video is None else self.video.factor**2
        told: dict[str, Any] = {} if own in (None, TOKEN_PIXELS) else {"token_pixels": own}
        return told | ({"not_applied": list(self.not_applied)} if self.not_applied else {})

    def by_protocol(self, protocol: EvalProtocol, backend: str, time_limit: float | None) -> ByProtocol:
        """Return what reads for a benchmark; frames of less than a token are a `ConfigError`."""
        if self.video is not None and protocol.max_pixels < self.video.factor**2:
            raise ConfigError(
                f"max_pixels={protocol.max_pixels} is less than a visual token of a {self.model_type} model, which has "
                f"{self.video.factor**2} pixels: pass at least that"
            )
        return ByProtocol(protocol, self.video, self.image, backend, time_limit)

    def by_config(self, config: PruneVidConfig) -> ByConfig:
        """Return what reads as ``prunevid ask`` does; a size that would change nothing is a `ConfigError`."""
        self.check_asked(name for name in ("max_pixels", "total_pixels") if getattr(config, name) is not None)
        return ByConfig(config, self.video, self.image)


def media_wanted(model_path: str, loading: dict[str, Any]) -> MediaWanted:
    """Read how a model wants its media; `UnsupportedError` for a family that is not known."""
    source, hub = _where(model_path, loading)
    model_type = str(config_of(source, hub).model_type)
    frontend = frontend_for(model_type)
    reader = MediaReader.from_pretrained(source, **hub) if issubclass(frontend, Preprocessor) else None
    sizes = (None, None) if reader is None else (reader.video, reader.image)
    return MediaWanted(model_type, frontend.reads_of(model_type), *sizes)


def media_reader(model_path: str, loading: dict[str, Any]) -> MediaReader:
    """Return what makes a model's pixels, read from its files; it is an `UnsupportedError` if it is no Qwen-VL."""
    source, hub = _where(model_path, loading)
    check_own_reading(source, hub)
    return MediaReader.from_pretrained(source, **hub)


def _where(model_path: str, loading: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    hub = {name: loading[name] for name in HUB_ARGUMENTS if loading.get(name) is not None}
    return source_of(model_path), hub


@dataclass(frozen=True, eq=False)
class ReadMedia:
    """One video or image, read and resized; uint8 is a quarter of the bytes of its patches: it goes through pipes."""

    kind: str  # "video" or "image"
    frames: np.ndarray  # uint8 RGB [T, h, w, 3]; T is 1 for an image, else even, or any number of frames as they were
    seconds_per_grid: float  # what the model is told of time; 1.0 for an image
    timestamps: tuple[float, ...]  # seconds of the frames taken, without padding; () for an image
    facts: dict[str, Any]  # what is stored with an answer
    indices: tuple[int, ...] = ()  # of a video whose frames are as they were: their numbers in the source,
    source_fps: float = 0.0  # and its frames a second

    def held_by(self, frontend: Frontend, config: PruneVidConfig) -> Clip | Picture:
        """Return it as a frontend of the library's processor holds it, which adds to the facts of its own."""
        if self.kind == "video":
            return Clip(self.frames, self.indices, self.source_fps, dict(self.facts))
        picture: Picture = frontend.read_image(self.frames[0], config)
        return replace(picture, facts={**picture.facts, **self.facts})


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
    video: PixelOptions | None  # as `MediaWanted` has it; the protocol's limits replace theirs
    image: PixelOptions | None
    backend: str = "pyav"
    time_limit: float | None = 120.0

    def read(self, media: Media) -> ReadMedia:
        """Read one video, folder of frames or image; a `MediaError` says that nothing could be read."""
        if media.kind == "image":
            return _image(media, None if self.image is None else self._limits(self.image, 1))
        chosen: list[Sampled] = []

        def choose(count: int, fps: float) -> tuple[int, ...]:
            chosen.append(self.protocol.sample(count, fps, media.start, media.end, int(media.kind == "frames")))
            return chosen[-1].indices

        def fit(frame: np.ndarray) -> np.ndarray:
            if self.video is None:
                return frame
            return fitted_frame(frame, self._limits(self.video, len(chosen[-1].indices)))

        found = read_frames(
            media.path, choose, fit=fit, fps=media.fps or 2.0, backend=self.backend, time_limit=self.time_limit
        )
        frames, padded = found.frames, 0
        if self.video is None:
            seconds = chosen[-1].seconds_per_grid("range") / 2  # a temporal position is one frame
        else:
            seconds = chosen[-1].seconds_per_grid(self.protocol.seconds_per_grid)
            padded = len(frames) % self.video.temporal_patch_size
        if padded:
            frames = np.concatenate([frames, frames[-1:]])
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
            "frame_pixels": None if self.video is None else self.protocol.frame_pixels(len(found.indices)),
            "size": list(found.size),
            "resized": list(frames.shape[1:3]),
            "warnings": list(found.warnings),
        }
        return ReadMedia("video", frames, seconds, found.timestamps, facts, found.indices, found.fps)

    def _limits(self, options: PixelOptions, frames: int) -> PixelOptions:
        return replace(options, min_pixels=self.protocol.min_pixels, max_pixels=self.protocol.frame_pixels(frames))


@dataclass(frozen=True)
class ByConfig:
    """Reads media as ``prunevid ask`` does."""

    config: PruneVidConfig  # how videos are sampled and resized
    video: PixelOptions | None  # as `MediaWanted` has it
    image: PixelOptions | None

    def read(self, media: Media) -> ReadMedia:
        """Read one video, folder of frames or image; as `ByProtocol` raises."""
        if media.kind == "image":
            limit = media.max_pixels if isinstance(media, LimitedImage) else self.config.max_pixels
            options = self.image
            return _image(media, options if options is None or limit is None else replace(options, max_pixels=limit))
        given = {name: value for name in ("start", "end", "fps") if (value := getattr(media, name)) is not None}
        if self.video is None:
            clip = clip_of(media.path, self.config, **given)
            seconds, times = clip.facts["seconds_per_grid"], tuple(clip.facts["timestamps"])
            return ReadMedia("video", clip.frames, seconds, times, clip.facts, clip.indices, clip.source_fps)
        frames, seconds, facts = MediaReader(self.video, self.image).read_fitted(media.path, self.config, **given)
        return ReadMedia("video", frames, seconds, tuple(facts["timestamps"]), facts)


def _image(media: Media, options: PixelOptions | None) -> ReadMedia:
    image, note = (media.image, media.note) if isinstance(media, HeldImage) else read_picture(media.path)
    frame, source = image if options is None else fitted_frame(image, options), named(media.path)
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
