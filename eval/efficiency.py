"""Time, memory and FLOPs with and without pruning, in turns: ``python eval/efficiency.py --help``.

The same as ``prunevid bench speed``. Results go under runs/, which git ignores; what is committed was written with
``--out eval/results/...``.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a checkout without installing

from prunevid_qwen.cli import main

RUNS = Path(__file__).resolve().parents[1] / "runs"

if __name__ == "__main__":
    folder = RUNS / ("efficiency_quick" if "--quick" in sys.argv else "efficiency")
    sys.exit(main(["bench", "speed", "--out", str(folder), *sys.argv[1:]]))
