"""Train GlimpsePrune's predictor for a frozen model: ``python train/glimpse.py --help``.

The same as ``prunevid train glimpse``, without installing, and what accelerate launches on several GPUs:
``accelerate launch --multi_gpu train/glimpse.py --recipe glimpse --out runs/glimpse_7b``.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a checkout without installing

from prunevid_qwen.cli import main

if __name__ == "__main__":  # processes that read data import this file too
    sys.exit(main(["train", "glimpse", *sys.argv[1:]]))
