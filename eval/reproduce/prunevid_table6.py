"""PruneVid's Qwen2.5-VL rows (ACL 2025 Findings, table 6): ``python eval/reproduce/prunevid_table6.py --help``.

Published, theirs: unpruned 65.5 MVBench, 65.3 Video-MME, 64.0 / 61.0 EgoSchema subset / full; PruneVid (18.1 %
retained) 64.9, 64.8, 63.0 / 60.3. Frames, pixels and prompt are not published, so there are two candidate settings:
``16frames`` (what the authors use for other models, VideoChat2's prompt, Qwen's pixels) and ``768frames`` (FastVID's:
at most 16,384 visual tokens, with FastVID's PruneVid*, stage 1 alone, beside it). About 22 hours of an A100 for both
and 232 GB of data: an estimate, whose arithmetic ``--dry-run`` shows.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run from a checkout without installing

from prunevid_qwen.cli import main

if __name__ == "__main__":  # worker processes import this file too
    sys.exit(main(["reproduce", "prunevid_table6", *sys.argv[1:]]))
