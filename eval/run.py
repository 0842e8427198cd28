"""A benchmark with and without pruning, scored: ``python eval/run.py --help``. The same as ``prunevid eval run``."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a checkout without installing

from prunevid_qwen.cli import main

if __name__ == "__main__":
    sys.exit(main(["eval", "run", *sys.argv[1:]]))
