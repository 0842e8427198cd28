"""Pictures of every kind that Pillow opens, as uint8 RGB; what was done to get there is said."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from prunevid_qwen.errors import MediaError, excerpt
from prunevid_qwen.video.data_uris import content_of, is_data_uri, named

# What a browser shows a frame for whose file says "no time at all".
_NO_TIME = 0.1
# Other formats keep more pictures than one as well, such as a phone's JPEG its preview: no animation.
_ANIMATED = ("WEBP", "PNG", "AVIF", "TIFF", "GIF")
# What Pillow's readers raise on damaged files.
_DAMAGE = (OSError, ValueError, SyntaxError, EOFError, RuntimeError, TypeError, IndexError, KeyError, struct.error)
WHITE_BELOW = "white was put below its transparent parts"


def open_image(source: str | os.PathLike[str]) -> Any:
    """Open an image file, or the one in a ``data:`` URI, with Pillow; only its header is read.

    Raises:
        MediaError: missing, empty or no image.
    """
    from PIL import Image, UnidentifiedImageError

    from prunevid_qwen.video.paths import local_file

    held = is_data_uri(source)
    file: Any = io.BytesIO(content_of(str(source))) if held else local_file(source, "image")
    name = excerpt(named(source if held else file))
    try:
        return Image.open(file)
    except UnidentifiedImageError as error:
        raise MediaError(f"{name} is no image that Pillow can read: pass a jpg, png, webp, bmp or tiff") from error
    except (*_DAMAGE, Image.DecompressionBombError) as error:
        raise MediaError(f"the image {name} cannot be opened ({excerpt(str(error))}): check the file") from error


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Turn what Pillow raises inside the block into a MediaError that names the image."""
    try:
        yield
    except MediaError:  # which is a ValueError, too
        raise
    except _DAMAGE as error:
        raise MediaError(f"the image {name} is damaged ({error}): copy or download it again") from error


def rgb(image: Any, name: str) -> tuple[np.ndarray, str | None]:
    """Turn a PIL image into pixels: upright, over white, scaled from the range of its mode.

    Returns:
        uint8 RGB ``[H, W, 3]``, and one clause on what was done besides; None if nothing.

    Raises:
        MediaError: damaged, or numbers that are no brightness.
    """
    from PIL import ImageOps

    with reading(name):
        image = ImageOps.exif_transpose(image)
        if image.mode[0] in "IF":
            return _scaled(image, name)
        if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
            return _over_white(image)
        return np.array(image.convert("RGB")), None


def _over_white(image: Any) -> tuple[np.ndarray, str | None]:
    from PIL import Image

    full = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    alpha = full.getchannel("A")
    if alpha.getextrema()[0] == 255:
        return np.array(full.convert("RGB")), None
    ground = Image.new("RGB", full.size, (255, 255, 255))
    ground.paste(full, mask=alpha)
    return np.array(ground), WHITE_BELOW


def _scaled(image: Any, name: str) -> tuple[np.ndarray, str | None]:
    """Scale grey levels: of 16 bits by 65535; of a wider mode by the smallest usual range that holds them."""
    levels = np.asarray(image)
    low, high = (float(levels.min()), float(levels.max())) if levels.size else (0.0, 0.0)
    ranges = {"I;": (65535,), "I": (255, 65535, 2**31 - 1), "F": (1, 255, 65535)}[
        "I;" if ";" in image.mode else image.mode
    ]
    top = next((top for top in ranges if high <= top), None)
    if not low >= 0 or top is None:  # NaN is not at least 0 either
        raise MediaError(
            f"the image {name} (mode {image.mode}) has levels from {low:g} to {high:g}, expected 0 to "
            f"{' or '.join(map(str, ranges))}: scale them to one of these, or pass a uint8 array"
        )
    grey = np.round(levels * (255.0 / top)).astype(np.uint8)
    clear = image.info.get("transparency")
    note = None if top == 255 else f"its levels from 0 to {top} were scaled to 0 to 255"
    if isinstance(clear, int) and (levels == clear).any():
        grey = np.where(levels == clear, np.uint8(255), grey)
        note = WHITE_BELOW if note is None else f"{note}, and {WHITE_BELOW}"
    return np.repeat(grey[:, :, None], 3, axis=2), note


def pictures_in(image: Any) -> int:
    """Count the pictures that an opened image shows one after the other; 1 of a format that shows none so."""
    if image.format not in _ANIMATED:
        return 1
    return int(getattr(image, "n_frames", 1)) - bool(getattr(image, "default_image", False))


class Animation:
    """The pictures of one file (webp, png, avif, or the pages of a tiff), each as it is shown.

    Args:
        path: of the file.
        fps: rate of pictures whose file gives them no time.

    Raises:
        MediaError: no image, or damaged.
    """

    def __init__(self, path: str, fps: float) -> None:
        from PIL import Image

        with open_image(path) as image, reading(path):
            self.first = 1 if getattr(image, "default_image", False) else 0  # stands outside a PNG's animation
            self.count = pictures_in(image)
        self.seconds: list[float] = []
        self.sizes: list[tuple[int, int]] = []
        self._path = path
        if self.count < 2:
            return
        with open(path, "rb") as file:
            self._image = Image.open(io.BytesIO(file.read()))
        for i in range(self.count):
            image = self._at(i)
            lasts = image.info.get("duration")
            self.seconds.append(1.0 / fps if lasts is None else float(lasts) / 1000 or _NO_TIME)
            self.sizes.append(image.size)

    def load(self, i: int) -> tuple[np.ndarray, str | None]:
        """Return picture i as `rgb` does."""
        return rgb(self._at(i), self._path)

    def _at(self, i: int) -> Any:
        try:
            self._image.seek(self.first + i)
            self._image.load()  # webp and avif know only then how long it stays
        except _DAMAGE as error:
            raise MediaError(f"picture {i} of {self._path} is damaged ({error}): copy or download it again") from error
        return self._image
