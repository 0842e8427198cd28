"""How large a prompt would be: of a model's config and a video's header, or of a size that is assumed."""

from __future__ import annotations

import re
from typing import Any

from prunevid_qwen.adapters import family_of
from prunevid_qwen.bundled import source_of
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.config.option_checks import unknown
from prunevid_qwen.errors import ConfigError, quoted
from prunevid_qwen.evaluation.estimate.estimating import bytes_needed, largest
from prunevid_qwen.evaluation.estimate.memory import check_counted
from prunevid_qwen.evaluation.speed.model_shapes import shape_called
from prunevid_qwen.evaluation.speed.speed_run import DTYPES
from prunevid_qwen.evaluation.tuning.choosing import levers
from prunevid_qwen.inputs.qwen.media import MediaReader
from prunevid_qwen.inputs.qwen.pixel_options import STOCK
from prunevid_qwen.loading import config_of
from prunevid_qwen.video import open_video

_UNITS = {"": 10**9, "gb": 10**9, "gib": 2**30, "mb": 10**6, "mib": 2**20}


def bytes_called(text: str) -> int:
    """Read a size of memory: 24GB, 24 (of GB) or 22.5GiB.

    Raises:
        ConfigError: it is none.

    >>> bytes_called("24GB"), bytes_called("1GiB"), bytes_called("0.5")
    (24000000000, 1073741824, 500000000)
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", text)
    if match is None or match[2].lower() not in _UNITS or not float(match[1]):
        raise ConfigError(f"a size of memory is such as 24GB or 22.5GiB, got {quoted(text)}")
    return int(float(match[1]) * _UNITS[match[2].lower()])


def size_called(text: str) -> tuple[int, int]:
    """Read a frame's size, WIDTHxHEIGHT; return height and width.

    Raises:
        ConfigError: it is none.

    >>> size_called("1280x720")
    (720, 1280)
    """
    match = re.fullmatch(r"\s*(\d+)\s*[xX]\s*(\d+)\s*", text)
    if match is None or not int(match[1]) * int(match[2]):
        raise ConfigError(f"a frame's size is WIDTHxHEIGHT in pixels, such as 1280x720, got {quoted(text)}")
    return int(match[2]), int(match[1])


def model_called(model_path: str, shape: str | None, hub: dict[str, Any]) -> tuple[Any, MediaReader]:
    """Return the config of a model, and what reads its videos. No weights are looked at.

    Args:
        model_path: a hub id, a folder or a bundled model; not read beside ``shape``.
        shape: name of a shape, such as "72b".
        hub: of `HUB_ARGUMENTS`.

    Raises:
        ConfigError, SetupError: there is no such model.
        UnsupportedError: the memory of its family is not counted.
    """
    if shape is not None:
        config = shape_called(shape)
        check_counted(config)
        own = STOCK.get(family_of(config.model_type).frontend, STOCK["qwen"])
        return config, MediaReader(own["video"], own["image"])
    source = source_of(model_path)
    config = config_of(source, hub)
    check_counted(config)
    return config, MediaReader.from_pretrained(source, **hub)


def grid_of_video(reader: MediaReader, config: PruneVidConfig, video: str) -> tuple[int, int, int, int]:
    """Return the frames that a config takes of a video, and (t, h, w) of its visual tokens. One frame is decoded.

    Raises:
        MediaError: it cannot be read.
    """
    stream = open_video(
        video, sampling=config.video_sampling, max_frames=config.max_frames, fps=config.fps,
        backend=config.video_backend, time_limit=config.video_time_limit,
    )  # fmt: skip
    try:
        return stream.count, *reader.grid_of(config, stream.count, *stream.size)
    finally:
        stream.close()


def largest_budget(
    shape: Any, config: PruneVidConfig, prompt: Any, free: int, bytes_each: int
) -> tuple[str, float] | None:
    """Return the option of a config's budget and the largest share of it, in hundredths, that fits; 0.0 if none does.

    None where the config has no budget. Shares for which the model has no room do not fit.
    """
    own = levers(config)
    if not own:
        return None
    name, beside = next(iter(own.items()))

    def fits(hundredths: int) -> bool:
        try:
            pruned = config.replace(**{**beside, name: hundredths / 100})
            return bytes_needed(shape, pruned, prompt, bytes_each) <= free
        except ConfigError:
            return False

    return name, largest(fits, 100) / 100


def check_dtype(name: str) -> int:
    """Return the bytes of a number of a dtype.

    Raises:
        ConfigError: an unknown one.
    """
    if name not in DTYPES:
        raise ConfigError(unknown("a dtype is one of", name, DTYPES))
    return DTYPES[name].itemsize
