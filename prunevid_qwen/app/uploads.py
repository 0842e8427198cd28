"""What the page may open: files that were uploaded to it, and its own example clips, within limits."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from prunevid_qwen.config.option_checks import check_count
from prunevid_qwen.errors import ConfigError, MediaError, quoted
from prunevid_qwen.video import untrusted

CLIPS = Path(str(files("prunevid_qwen") / "bundled" / "clips"))
_SHOWN = (".mp4", ".webm")  # of the clips, those that a browser plays


@dataclass(frozen=True)
class UploadLimits:
    """What an upload may be.

    Args:
        megabytes: of one file, at least 1.
        seconds: of one video, at least 1.
        pixels: of one frame or image, at least 1.
        images: in one question, at least 1.

    Raises:
        ConfigError: a limit is no whole number of at least 1.
    """

    megabytes: int = 200
    seconds: int = 600
    pixels: int = 3840 * 2160
    images: int = 8

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            check_count(name, value, 1)

    def check_images(self, count: int) -> None:
        """Refuse more images than a question may have.

        Raises:
            MediaError: as it says.
        """
        if count > self.images:
            raise MediaError(f"{count} images were uploaded, and this page takes at most {self.images}: remove some")


def example_clips() -> Iterator[tuple[str, str]]:
    """Yield path and first question of each clip in the package that a browser plays."""
    for entry in json.loads((CLIPS / "clips.json").read_text(encoding="utf-8")):
        if entry["file"].endswith(_SHOWN):
            yield str(CLIPS / entry["file"]), entry["questions"][0]["question"]


def uploaded(path: str, folder: Path) -> Path:
    """Return the file that a browser names, if it was uploaded.

    Args:
        path: as the browser sent it.
        folder: of uploads. Links that lead out of it are followed, and refused.

    Raises:
        ConfigError: it lies elsewhere.
    """
    try:
        found = Path(path).resolve(strict=True)
    except (OSError, ValueError):
        found = None
    if found is None or not found.is_file() or not found.is_relative_to(folder.resolve()):
        raise ConfigError(f"this page opens files that were uploaded to it, and {quoted(Path(path).name)} was not")
    return found


def check_video(path: Path, limits: UploadLimits) -> None:
    """Refuse a video that is too large, too long or of too many pixels, before any frame is decoded.

    Raises:
        MediaError: as it says, or the file is no video.
    """
    _check_size(path, limits)
    untrusted.check_video(str(path), path.name, limits.seconds, limits.pixels)


def check_image(path: Path, limits: UploadLimits) -> None:
    """Refuse an image that is too large, before it is decoded.

    Raises:
        MediaError: as it says, or the file is no image.
    """
    _check_size(path, limits)
    untrusted.check_image(str(path), path.name, limits.pixels)


def _check_size(path: Path, limits: UploadLimits) -> None:
    size = path.stat().st_size
    if size > limits.megabytes * 10**6:
        raise MediaError(
            f"{path.name} has {size / 10**6:.0f} MB, and this page takes files of at most {limits.megabytes} MB: start "
            "it with a larger --max_megabytes"
        )
