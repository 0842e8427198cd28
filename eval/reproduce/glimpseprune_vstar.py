"""GlimpsePrune on V* (arXiv 2508.01548): ``python eval/reproduce/glimpseprune_vstar.py --help``.

Single images. ``accuracy``: 256 to 2048 visual tokens, a request for the letter. Published, theirs: unpruned 71.7,
GlimpsePrune (at most 11.1 % kept) 72.8, VisionZip 60.2, VScan 59.7, PDrop 42.4. ``efficiency``: at most 4096 tokens,
free answers of 64 tokens, exactly 11.1 % kept. Published of V* as a picture alone; in text, theirs, of 100 DocVQA
images on an A100: prefill 423.3 to 306.9 ms, peak memory 33.5 to 24.4 GB. About 2 hours of an A100 and less than 1 GB
of data: an estimate, whose arithmetic ``--dry-run`` shows. Times and memory need the GPU, token counts and FLOPs do
not.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run from a checkout without installing

from prunevid_qwen.cli import main

if __name__ == "__main__":  # worker processes import this file too
    sys.exit(main(["reproduce", "glimpseprune_vstar", *sys.argv[1:]]))
