"""Visual-CoT's questions about images, with and without pruning, scored: ``python eval/visual_cot.py --help``.

The same as ``prunevid eval visual-cot``, with the results under runs/, which git ignores.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a checkout without installing

from prunevid_qwen.cli import main

RUNS = Path(__file__).resolve().parents[1] / "runs"

if __name__ == "__main__":
    sys.exit(main(["eval", "visual-cot", "--out", str(RUNS / "visual_cot"), *sys.argv[1:]]))
