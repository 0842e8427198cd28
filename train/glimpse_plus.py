"""GlimpsePrune+: ``python train/glimpse_plus.py --help``. It needs GPUs to be of any use on a real model.

The same as ``prunevid train glimpse-plus``, without installing, and what accelerate launches on several GPUs:
``accelerate launch --multi_gpu train/glimpse_plus.py --recipe glimpse_plus --out runs/glimpse_plus_7b``.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a checkout without installing

from prunevid_qwen.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", "glimpse-plus", *sys.argv[1:]]))
