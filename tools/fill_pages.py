"""Write generated tables of README and of pages under docs/ anew: ``python tools/fill_pages.py``.

docs/choices.md is filled by ``python eval/choices.py --out eval/results/choices``.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a checkout without installing

from prunevid_qwen.evaluation.glimpse_page import glimpse_tables
from prunevid_qwen.evaluation.marked_page import fill
from prunevid_qwen.evaluation.performance_page import performance_tables
from prunevid_qwen.evaluation.receipt_page import receipt_tables
from prunevid_qwen.evaluation.releases_page import release_tables

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    "README.md": release_tables,
    "docs/performance.md": performance_tables,
    "docs/glimpse.md": glimpse_tables,
    "docs/receipt.md": receipt_tables,
}

if __name__ == "__main__":
    for name, tables in PAGES.items():
        page = ROOT / name
        page.write_text(fill(page.read_text(encoding="utf-8"), tables(ROOT / "eval" / "results")), encoding="utf-8")
        print(f"{page}: written anew")
