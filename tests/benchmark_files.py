"""Files of miniature benchmarks: clips, frame folders, tables, and what caches hold."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from PIL import Image

from tests.media import FAST_VP9, encode, frame

FRAMES, RATE, SIZE = 12, 6, (48, 64)
"""Every clip lasts two seconds, and every frame shows its number (`tests.media.number_of`)."""

_ENCODERS: dict[str, dict[str, Any]] = {
    ".mp4": {"options": {"preset": "ultrafast"}},
    ".mkv": {"options": {"preset": "ultrafast"}},
    ".webm": {"codec": "libvpx-vp9", "options": FAST_VP9},
    ".avi": {"codec": "mpeg4"},
}


class Clips:
    """Puts clips where they are wanted; each kind is encoded once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def put(self, path: Path) -> Path:
        suffix = path.suffix.lower()
        made = self.folder / f"clip{suffix}"
        if not made.exists():
            encode(made, frames=FRAMES, rate=RATE, size=SIZE, **_ENCODERS[suffix])
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(made, path)
        return path


def put_frames(folder: Path, count: int = FRAMES, first: int = 1, suffix: str = ".jpg") -> Path:
    """Frame folder as TVQA's: 00001.jpg and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        Image.fromarray(frame(number, *SIZE)).save(folder / f"{number:05d}{suffix}", format="JPEG")
    return folder


def write_json(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    return path


def write_parquet(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
    return path


def write_arrow(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """As the `datasets` library prepares a split: arrow's stream format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.Table.from_pylist(list(rows))
    with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)
    return path


def snapshot(cache: Path, repository: str, branch: str = "main", commit: str = "c0ffee") -> Path:
    """Folder of a repository's commit in the hub's cache, with a branch that points at it."""
    home = cache / "hub" / f"datasets--{repository.replace('/', '--')}"
    (home / "refs" / branch).parent.mkdir(parents=True, exist_ok=True)
    (home / "refs" / branch).write_text(commit)
    (home / "snapshots" / commit).mkdir(parents=True, exist_ok=True)
    return home / "snapshots" / commit
