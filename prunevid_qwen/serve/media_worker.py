"""The process that decodes what clients send: ``python -m prunevid_qwen.serve.media_worker``.

It is asked on stdin, a line of JSON at a time, and answers on stdout: a line of JSON, and the bytes of the frames. No
pickle goes either way, so a decoder that a file has taken over hands nothing but pixels to the server. It is killed when
it takes too long, and its memory has a limit.
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
from prunevid_qwen.video.frames import holds_pictures
from prunevid_qwen.video.image_files import open_image
from prunevid_qwen.video.picture import Picture
from prunevid_qwen.video.pyav import open_container
from prunevid_qwen.video.reader import ask

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
            family whose frames are resized here, or null), "pixels", "seconds" and "frames" (the limits).

    Returns:
        What is said of it, and frames uint8 RGB [T, H, W, 3].

    Raises:
        MediaError: unreadable, or above a limit.
    """
    kind, paths, options, pixels = job["kind"], job["paths"], dict(job["options"]), int(job["pixels"])
    if kind == "image":
        _check_image(paths[0], pixels)
        picture = Picture.of(paths[0])
        return {"kind": kind, "facts": picture.facts}, picture.pixels[None]
    source: Any = paths if job["listed"] else paths[0]
    if job["listed"]:
        if len(paths) > int(job["frames"]):
            raise MediaError(f"{len(paths)} frames were sent, and this server takes at most {job['frames']}")
        for path in paths:
            _check_image(path, pixels)
    else:
        _check_video(paths[0], pixels, float(job["seconds"]))
    config = PruneVidConfig(**job["reading"])
    for name in ("nframes", "max_frames", "min_frames"):
        if int(options.get(name) or 0) > int(job["frames"]):
            raise ConfigError(f"{name} of an item is at most {job['frames']} here, got {options[name]}")
    if job["video"] is None:
        clip: Clip = clip_of(source, config, **options)
        said = {"kind": kind, "facts": clip.facts, "indices": list(clip.indices), "source_fps": clip.source_fps}
        return said, clip.frames
    frames, seconds, facts = MediaReader(options_of(job["video"])).read_fitted(source, config, **options)
    return {"kind": kind, "facts": facts, "seconds_per_grid": seconds}, frames


def _check_image(path: str, most: int) -> None:
    with open_image(path) as image:
        width, height = image.size
    _check_pixels(width * height, most)


def is_container(head: bytes) -> bool:
    """Tell from its first bytes whether a file is of a format that holds its frames itself.

    Others are not opened: a playlist is a text that names other files, and FFmpeg would read them.
    """
    begins = (b"\x1aE\xdf\xa3", b"GIF8", b"FLV\x01", b"OggS", b"\0\0\1\xba", b"\0\0\1\xb3", b"0&\xb2u", b"\x89PNG",
              b"II*\0", b"MM\0*", b"YUV4MPEG2 ")  # fmt: skip
    boxes = (b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip")
    riff = head[:4] == b"RIFF" and head[8:12] in (b"AVI ", b"WEBP")
    stream = len(head) > 188 and head[0] == head[188] == 0x47  # MPEG-TS
    return head.startswith(begins) or head[4:8] in boxes or riff or stream


def _check_video(path: str, most: int, seconds: float) -> None:
    with open(path, "rb") as file:
        if not is_container(file.read(256)):
            raise MediaError("the video is of no format that is read here: send an mp4, webm, mkv, avi, ts or gif")
    duration = ask(path).timeline.duration
    if duration > seconds:
        raise MediaError(f"the video has {duration:.0f} s, and this server takes at most {seconds:g} s: cut it")
    if holds_pictures(path):
        _check_image(path, most)
        return
    container, stream = open_container(path)
    with container:
        context = stream.codec_context
        _check_pixels(context.width * context.height, most)


def _check_pixels(count: int, most: int) -> None:
    if count > most:
        raise MediaError(f"a frame has {count:,} pixels, and this server takes at most {most:,}: make it smaller")


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
