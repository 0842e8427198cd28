"""The site is built without a warning: every link leads somewhere, every page is in the menu, every API name exists."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.nightly
def test_the_site_is_built_and_its_pictures_are_there(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="the site's tools are not installed: pip install '.[docs]'")
    pytest.importorskip("mkdocstrings", reason="the site's tools are not installed: pip install '.[docs]'")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(tmp_path / "site")]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pages = list((tmp_path / "site").glob("*.html"))
    assert len(pages) > 10
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for name in re.findall(r'(?:href|src|srcset)="([^":#?]+)[#"]', text):
            assert (page.parent / name).exists() or name.startswith("/"), f"{page.name}: {name}"
