"""Frames that come as images: folders, lists of paths, PIL images or arrays, whole arrays; and single images."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from prunevid_qwen.errors import MediaError, excerpt
from prunevid_qwen.video.data_uris import is_data_uri, named
from prunevid_qwen.video.image_files import Animation, open_image, pictures_in, reading, rgb
from prunevid_qwen.video.sniff import is_webp_or_tiff
from prunevid_qwen.video.video_read import Remark, Timeline

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".apng", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".avif")

# A folder of these is no video whose frames lie beside them.
VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".gif", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg",
                  ".m2v", ".vob", ".wmv", ".asf", ".flv", ".f4v", ".3gp", ".3g2", ".ogv", ".mxf", ".y4m")  # fmt: skip

_OF_SYSTEMS = ("thumbs.db", "desktop.ini")  # file managers leave them in folders of pictures


@dataclass(frozen=True)
class FrameSource:
    """Frames that need no video decoder.

    Args:
        timeline: frame i is taken as shown at ``i / fps`` seconds; of an animation as its file says.
        load: returns frame i as uint8 RGB ``[H, W, 3]``; files are opened only then.
        name: for messages and ``Video.source``.
        said: sentences on what was done to the frames loaded so far, each once.
    """

    timeline: Timeline
    load: Callable[[int], np.ndarray]
    name: str
    said: list[str] = field(default_factory=list)


def holds_pictures(path: str) -> bool:
    """Tell from its name whether a file holds one picture or an animation, which Pillow reads.

    By any name it reads WebP and TIFF, of which FFmpeg knows no animation.
    """
    suffix = os.path.splitext(path)[1].lower()
    if suffix == ".avif":  # a Pillow without it leaves the file to the video readers
        from PIL import features

        return bool(features.check("avif"))
    return suffix in IMAGE_SUFFIXES or is_webp_or_tiff(path)


def natural_order(name: str) -> list[tuple[int, int | str]]:
    """Sort key that puts "frame2" before "frame10"."""
    return [(0, int(part)) if part.isdigit() else (1, part.lower()) for part in re.split(r"(\d+)", name) if part]


def frames_of_folder(folder: str, fps: float) -> FrameSource:
    """Take the images in a folder, in natural order of their names; hidden files, folders and others are passed over.

    Raises:
        MediaError: the folder cannot be listed, holds a video or no image; or the images differ in size.
    """
    try:
        found = sorted(os.listdir(folder), key=natural_order)
    except OSError as error:
        raise MediaError(f"the folder {folder} cannot be listed ({error.strerror}): check its permissions") from error
    found = [n for n in found if not n.startswith(".")]
    names = [n for n in found if n.lower().endswith(IMAGE_SUFFIXES)]
    videos = [n for n in found if n.lower().endswith(VIDEO_SUFFIXES)]
    if videos:
        raise MediaError(
            f"the folder {folder} holds {_count(len(videos), 'video')} ({_first(videos)}) and "
            f"{_count(len(names), 'image')}, which are no frames of one video: pass a video (`prunevid batch` asks "
            f"about many), or a list of the images if they are the frames"
        )
    if not names:
        held = f"{_count(len(found), 'other entry', 'other entries')} ({_first(found)})" if found else "nothing"
        raise MediaError(
            f"the folder {folder} holds no frame: expected images ({', '.join(IMAGE_SUFFIXES)}), found {held}. "
            f"Pass a video file, or a folder of images"
        )
    source = frames_of_list([os.path.join(folder, n) for n in names], fps, name=folder)
    others = [n for n in found if n not in names and n.lower() not in _OF_SYSTEMS]
    if others:
        passed = f"{_count(len(others), 'other entry', 'other entries')} ({_first(others)})"
        taken = _count(len(names), "image was", "images were")
        source.said.append(Remark(f"{folder}: {taken} taken as frames, {passed} passed over"))
    return source


def _count(number: int, noun: str, nouns: str = "") -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {nouns or noun + 's'}"


def _first(names: Sequence[str]) -> str:
    return names[0] + ", ..." * (len(names) > 1)


def frames_of_list(items: Sequence[Any], fps: float, name: str | None = None) -> FrameSource:
    """Take each item (a path, a PIL image, or an ``[H, W, 3]`` uint8 array or tensor) as a frame.

    Raises:
        MediaError: the list is empty, an item is no image, or the sizes differ (the first that does is named).
    """
    name = name or f"a list of {len(items)} frames"
    if len(items) == 0:
        raise MediaError("an empty list of frames was passed: pass at least one image path, PIL image or array")
    # Only headers are read here: a frame that is not chosen is never decoded.
    first = _size_of(items[0])
    for i, item in enumerate(items):
        size = _size_of(item)
        if size != first:
            label = _file_name(item) if isinstance(item, (str, os.PathLike)) else f"frame {i}"
            raise MediaError(
                f"the frames of {name} differ in size: {label} (number {i}) is {size[1]}x{size[0]}, the first is "
                f"{first[1]}x{first[0]} (width x height): resize them to one size"
            )
    return _noting(_at_rate(len(items), fps), lambda i: read_picture(items[i]), name)


def _file_name(item: str | os.PathLike[str]) -> str:
    return named(item) if is_data_uri(item) else excerpt(os.path.basename(os.fsdecode(item)), 50)


def frames_of_picture(path: str, fps: float) -> FrameSource:
    """Take the pictures of one image file: those of an animation when it shows them, else the only one.

    Raises:
        MediaError: no image, damaged, or pages that differ in size.
    """
    animation = Animation(path, fps)
    if animation.count < 2:
        return frames_of_list([path], fps, name=path)
    odd = next((i for i, size in enumerate(animation.sizes) if size != animation.sizes[0]), None)
    if odd is not None:
        (width, height), (first_width, first_height) = animation.sizes[odd], animation.sizes[0]
        raise MediaError(
            f"the pictures of {path} differ in size: number {odd} is {width}x{height}, the first is "
            f"{first_width}x{first_height} (width x height): resize them to one size"
        )
    begins = [0.0, *itertools.accumulate(animation.seconds)]
    timeline = Timeline(tuple(begins[:-1]), begins[-2] / (animation.count - 1), ends=begins[-1])
    return _noting(timeline, animation.load, path)


def _noting(timeline: Timeline, load: Callable[[int], tuple[np.ndarray, str | None]], name: str) -> FrameSource:
    said: list[str] = []

    def frame(i: int) -> np.ndarray:
        pixels, note = load(i)
        sentence = Remark(f"{name}: of a frame, {note}")
        if note and sentence not in said:
            said.append(sentence)
        return pixels

    return FrameSource(timeline, frame, name, said)


def frames_of_array(array: Any, fps: float) -> FrameSource:
    """Take a numpy array or torch tensor ``[T, H, W, 3]`` or ``[T, 3, H, W]``, uint8, RGB.

    Raises:
        MediaError: another shape or type.
    """
    frames = _as_numpy(array)
    name = f"an array of shape {list(frames.shape)}"
    if frames.ndim != 4 or 3 not in (frames.shape[1], frames.shape[3]):
        raise MediaError(f"frames are [T, H, W, 3] or [T, 3, H, W], got {name}; one image is an API of its own")
    _check_uint8(frames, name)
    if frames.shape[3] != 3:
        frames = frames.transpose(0, 2, 3, 1)
    if 0 in frames.shape:
        raise MediaError(f"{name} holds no pixel: pass at least one frame")
    return FrameSource(_at_rate(len(frames), fps), lambda i: np.ascontiguousarray(frames[i]), name)


def read_image(source: Any) -> np.ndarray:
    """Read one image as uint8 RGB ``[H, W, 3]``.

    The EXIF orientation is applied, as viewers do. White is put below transparent parts, and levels of 16 bits or
    floats are scaled to 0 to 255; other modes become RGB as ``PIL.Image.convert("RGB")`` makes them.

    Args:
        source: a path, a PIL image, or a uint8 array or tensor ``[H, W, 3]``, ``[3, H, W]`` or ``[H, W]`` (grey).

    Raises:
        MediaError: missing, empty, truncated, no image, or an array of another shape or type.
    """
    return read_picture(source)[0]


def read_picture(source: Any) -> tuple[np.ndarray, str | None]:
    """Read one image as `read_image`; also return one clause on what was done to it, or None."""
    if isinstance(source, (str, os.PathLike)):
        name = excerpt(named(source))
        with open_image(source) as image, reading(name):
            count = pictures_in(image)
            pixels, note = rgb(image, name)
        said = [f"the first of its {count} pictures was taken"] if count > 1 else []
        return pixels, ", and ".join([*said, note] if note else said) or None
    if hasattr(source, "convert") and hasattr(source, "getexif"):
        return rgb(source, "the PIL image")
    if hasattr(source, "shape"):
        return _image_array(source), None
    raise MediaError(f"an image is a path, a PIL image or a uint8 array [H, W, 3]; got {type(source).__name__}")


def _image_array(source: Any) -> np.ndarray:
    pixels = _as_numpy(source)
    name = f"an array of shape {list(pixels.shape)}"
    _check_uint8(pixels, name)
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[:, :, None], 3, axis=2)
    elif pixels.ndim == 3 and pixels.shape[2] != 3 and pixels.shape[0] == 3:
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise MediaError(f"an image array is [H, W, 3], [3, H, W] or [H, W], got {name}")
    return np.ascontiguousarray(pixels)


def _size_of(item: Any) -> tuple[int, int]:
    """Height and width as shown, from the header where there is one."""
    if isinstance(item, (str, os.PathLike)):
        with open_image(item) as image, reading(excerpt(named(item))):  # of a PNG, EXIF may stand at its end
            return _upright_size(image)
    if hasattr(item, "convert") and hasattr(item, "getexif"):
        with reading("the PIL image"):
            return _upright_size(item)
    height, width = read_image(item).shape[:2]
    return height, width


def _upright_size(image: Any) -> tuple[int, int]:
    width, height = image.size
    turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)  # the EXIF orientations that exchange the sides
    return (width, height) if turned else (height, width)


def _as_numpy(array: Any) -> np.ndarray:
    if hasattr(array, "detach"):  # a torch tensor, told apart without importing torch
        array = array.detach().cpu().numpy()
    return np.asarray(array)


def _check_uint8(array: np.ndarray, name: str) -> None:
    if array.dtype != np.uint8:
        raise MediaError(
            f"{name} is {array.dtype}, pixels are uint8 from 0 to 255: pass (x * 255).round().astype('uint8') if x is "
            f"a float from 0 to 1"
        )


def _at_rate(count: int, fps: float) -> Timeline:
    return Timeline(tuple(i / fps for i in range(count)), 1.0 / fps)
