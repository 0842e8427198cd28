"""Options and make targets that README and the quickstart name exist; tests/test_docs.py runs their blocks."""

from __future__ import annotations

import re
from pathlib import Path

from tests.test_cli_spellings import ALL

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
QUICKSTART = (ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8")


def test_options_in_the_text_exist() -> None:
    known = {option for command in ALL.values() for each in command.params for option in each.opts}
    named = set(re.findall(r"`(--[a-z_]+)[ `]", README + QUICKSTART)) - {"--local_dir"}
    assert named <= known | {"--help", "--help-all", "--version"}


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"`?make ([a-z-]+)", README):
        assert f"\n{target}:" in makefile, target
