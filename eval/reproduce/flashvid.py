"""FlashVID's Qwen2.5-VL rows (ICLR 2026): ``python eval/reproduce/flashvid.py --help``.

32 frames, lmms-eval's pixels (256 to 768 tokens a frame) and prompts. Published, theirs: unpruned 68.0 MVBench, 61.3
Video-MME, 60.2 / 58.3 EgoSchema subset / full, 58.9 LongVideoBench; FastV, VisionZip, FastVID and FlashVID at 25, 20,
15 and 10 % of the tokens averaged over layers. Ours: FastV, PruneVid, random and uniform at the same budgets. About
27 hours of an A100 and 436 GB of data: an estimate, whose arithmetic ``--dry-run`` shows.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run from a checkout without installing

from prunevid_qwen.cli import main

if __name__ == "__main__":  # worker processes import this file too
    sys.exit(main(["reproduce", "flashvid", *sys.argv[1:]]))
