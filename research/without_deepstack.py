"""Write the second toy with the levels of DeepStack at zero: ``python -m research.without_deepstack FOLDER``.

``python -m research.bundled_accuracy --model FOLDER --videos 60 --condition clutter --out PATH`` then tells the
worth of the levels; eval/results/bundled_qwen3vl_without_deepstack_* holds its answers.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer
from safetensors.torch import load_file, save_file

from prunevid_qwen.bundled import bundled_model
from prunevid_qwen.cli import run_script


def main(folder: Annotated[Path, typer.Argument(help="Where to; it must not exist yet.")]) -> None:
    """Copy the toy and set the last layer of each merger of DeepStack to zero."""
    weights = Path(shutil.copytree(bundled_model("bundled-qwen3vl"), folder)) / "model.safetensors"
    parameters = load_file(weights)
    for name, value in parameters.items():
        if "deepstack_merger_list" in name and "linear_fc2" in name:
            value.zero_()
    save_file(parameters, weights, metadata={"format": "pt"})


if __name__ == "__main__":
    run_script(main)
