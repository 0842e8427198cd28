"""Accuracy of every method at equal cost, on generated videos: ``python eval/moving_shapes.py --help``.

The same as ``prunevid bench accuracy --pack``, with the results beside the others: eval/results/moving_shapes.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a checkout without installing

from prunevid_qwen.cli import main

RESULTS = Path(__file__).resolve().parent / "results" / "moving_shapes"

if __name__ == "__main__":  # worker processes import this file too
    sys.exit(main(["bench", "accuracy", "--out", str(RESULTS), "--pack", *sys.argv[1:]]))
