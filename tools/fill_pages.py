"""Write the generated tables of docs/performance.md anew from the raw results: ``python tools/fill_pages.py``.

docs/choices.md is filled by ``python eval/choices.py --out eval/results/choices``.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a checkout without installing

from prunevid_qwen.evaluation.marked_page import fill
from prunevid_qwen.evaluation.performance_page import performance_tables

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "performance.md"

if __name__ == "__main__":
    filled = fill(PAGE.read_text(encoding="utf-8"), performance_tables(ROOT / "eval" / "results"))
    PAGE.write_text(filled, encoding="utf-8")
    print(f"{PAGE}: tables are those of eval/results")
