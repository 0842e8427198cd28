"""FastVID's Qwen2.5-VL rows (NeurIPS 2025, table 4): ``python eval/reproduce/fastvid.py --help``.

Video-MME at 768 frames and 16,384 visual tokens at most, lmms-eval's prompt. Published, theirs (overall, short /
medium / long): unpruned 67.3 (76.7 / 68.2 / 56.9), PruneVid* (stage 1 alone, 24.5 % kept) 59.3 (67.0 / 59.4 / 51.6),
FastVID (24.1 %) 62.8 (74.3 / 61.3 / 52.8). Ours: PruneVid's stage 1, random and uniform at 24.5 %. About 3 hours of
an A100 and 103 GB of data: an estimate, whose arithmetic ``--dry-run`` shows.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run from a checkout without installing

from prunevid_qwen.cli import main

if __name__ == "__main__":  # worker processes import this file too
    sys.exit(main(["reproduce", "fastvid", *sys.argv[1:]]))
