"""Miniature folders of the published tables' data sets, and `prunevid reproduce` with the bundled model on them."""

from __future__ import annotations

from pathlib import Path

from prunevid_qwen.cli import main
from tests.benchmark_folders import Clips, egoschema, videomme, vstar
from tests.shapes_benchmark import shapes_mvbench

SMALL = ("--device", "cpu", "--workers", "0", "--min_pixels", "784", "--max_pixels", "6272")


def prunevid(name: str, *words: str) -> int:
    return main(["reproduce", name, *words])


def write_data(root: Path) -> Path:
    """Write the data sets, each in a folder of its name; return ``root``."""
    clips = Clips(root / "clips")
    videomme(root / "videomme", clips)
    egoschema(root / "egoschema", clips)
    (root / "egoschema/videos/00000001-aaaa.mp4").unlink()  # of the full set alone
    vstar(root / "vstar")
    shapes_mvbench(root / "mvbench", videos=1, questions=1)
    return root


def call(root: Path, name: str, sets: tuple[str, ...], *words: str) -> int:
    data = [word for each in sets for word in ("--data", f"{each}={root / each}")]
    model = [] if "--model_path" in words else ["--model_path", "bundled"]
    return prunevid(name, *data, *SMALL, *model, *words)
