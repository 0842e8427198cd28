"""Write the bundled clips and what is known about them: ``python train/bundled_clips.py``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a checkout without installing

from prunevid_qwen.cli import run_script
from prunevid_qwen.training.clips import write_clips

ROOT = Path(__file__).resolve().parents[1]


def main(
    out: Annotated[Path, typer.Option(help="Folder to write into.")] = ROOT / "prunevid_qwen" / "bundled" / "clips",
) -> None:
    """Draw, encode, list questions and answers."""
    typer.echo(f"wrote {write_clips(out)}")


if __name__ == "__main__":
    run_script(main)
