"""The process that decodes what clients send: ``python -m prunevid_qwen.serve.media_worker``.

It is asked on stdin, a line of JSON at a time, and answers on stdout: a line of JSON, and the bytes of the frames. No
pickle goes either way, so a decoder that a file has taken over hands nothing but pixels to the server. It is killed
when it takes too long, and its memory has a limit.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.errors import ConfigError, MediaError, PruneVidError
from prunevid_qwen.inputs.frontends.stock import clip_of
from prunevid_qwen.inputs.qwen.media import MediaReader
from prunevid_qwen.inputs.qwen.pixel_options import PixelOptions, WholeVideo
from prunevid_qwen.video.clip import Clip
from prunevid_qwen.video.picture import Picture
from prunevid_qwen.video.untrusted import check_image, check_video

_MEMORY = 2 * 2**30
"""Bytes for the interpreter and its libraries, beside those of frames."""
_COPIES = 4
"""Frames are decoded, converted, resized and handed over."""


def options_of(plain: Mapping[str, Any]) -> PixelOptions:
    """Return the `PixelOptions` that ``dataclasses.asdict`` and JSON made plain."""
    lists = {name: tuple(value) for name, value in plain.items() if isinstance(value, list)}
    whole = None if plain["whole"] is None else WholeVideo(**plain["whole"])
    return PixelOptions(**{**plain, **lists, "whole": whole})


def read(job: Mapping[str, Any]) -> tuple[dict[str, Any], np.ndarray[Any, Any]]:
    """Check and read one image or video.

    Args:
        job: "kind", "paths" (a file, or frames), "options", "reading" (of a config), "video" (`PixelOptions` of a
            family whose frames are resized here, or null), "pixels", "seconds", "frames" and "tokens" (the limits).

    Returns:
        What is said of it, and frames uint8 RGB [T, H, W, 3].

    Raises:
        MediaError: unreadable, or above a limit.
    """
    kind, paths, options, pixels = job["kind"], job["paths"], dict(job["options"]), int(job["pixels"])
    if kind == "image":
        check_image(paths[0], "the image", pixels)
        picture = Picture.of(paths[0])
        return {"kind": kind, "facts": picture.facts}, picture.pixels[None]
    source: Any = paths if job["listed"] else paths[0]
    if job["listed"]:
        if len(paths) > int(job["frames"]):
            raise MediaError(f"{len(paths)} frames were sent, and this server takes at most {job['frames']}")
        for path in paths:
            check_image(path, "a frame", pixels)
    else:
        check_video(paths[0], "the video", float(job["seconds"]), pixels)
    config = PruneVidConfig(**job["reading"])
    for name in ("nframes", "max_frames", "min_frames"):
        if int(options.get(name) or 0) > int(job["frames"]):
            raise ConfigError(f"{name} of an item is at most {job['frames']} here, got {options[name]}")
    if job["video"] is None:
        clip: Clip = clip_of(source, config, **options)
        said = {"kind": kind, "facts": clip.facts, "indices": list(clip.indices), "source_fps": clip.source_fps}
        return said, clip.frames
    frames, seconds, facts = MediaReader(options_of(job["video"])).read_fitted(source, config, job["tokens"], **options)
    return {"kind": kind, "facts": facts, "seconds_per_grid": seconds}, frames


def limit_memory(frames: int, pixels: int) -> None:
    """Let this process have no more memory than its libraries and so many frames need, where the system can."""
    try:
        import resource
    except ImportError:  # Windows
        return
    most = _MEMORY + _COPIES * 3 * pixels * min(frames, 64)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def main(commands: BinaryIO, answers: BinaryIO) -> None:
    """Answer jobs until the server closes the pipe."""
    _say(answers, {"ready": os.getpid()})
    for line in commands:
        job = json.loads(line)
        try:
            head, frames = read(job)
        except PruneVidError as error:
            _say(answers, {"error": str(error), "type": type(error).__name__})
            continue
        except MemoryError:
            _say(answers, {"error": "it needs more memory than this server gives to one file", "type": "MediaError"})
            continue
        held = np.ascontiguousarray(frames)
        _say(answers, {**head, "shape": list(held.shape)})
        answers.write(held.data)
        answers.flush()


def _say(answers: BinaryIO, head: Mapping[str, Any]) -> None:
    answers.write(json.dumps(head).encode() + b"\n")
    answers.flush()


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    limit_memory(int(sys.argv[1]), int(sys.argv[2]))
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a library that prints goes to the log
    main(sys.stdin.buffer, out)
