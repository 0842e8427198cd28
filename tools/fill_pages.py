"""Write the generated tables of README and of pages under docs/ anew: ``python tools/fill_pages.py``."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a checkout without installing

from research.pages import PAGES, write

if __name__ == "__main__":
    for page in PAGES:
        print(f"{write(page)}: written anew")
