"""Generated tables of README and docs/ are those of the committed results: filling the pages changes nothing."""

from __future__ import annotations

import pytest

from prunevid_qwen.errors import ConfigError
from research.pages import PAGES, ROOT, block_names, fill, filled


@pytest.mark.parametrize("page", PAGES)
def test_filling_changes_nothing_and_every_table_has_its_place(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert filled(page) == text, "run `python tools/fill_pages.py`: it rewrites them"
    assert sorted(block_names(text)) == sorted(PAGES[page](ROOT / "eval" / "results"))


def test_no_other_page_has_room_for_generated_tables() -> None:
    found = [path.relative_to(ROOT).as_posix() for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"))
             if block_names(path.read_text(encoding="utf-8"))]  # fmt: skip
    assert sorted(found) == sorted(PAGES)


def test_a_place_without_a_table_is_refused() -> None:
    page = "before\n<!-- figures: speed -->\nold\n<!-- end -->\nafter\n"
    assert fill(page, {"speed": "new"}) == page.replace("old", "new")
    with pytest.raises(ConfigError, match="nonsense"):
        fill("<!-- figures: nonsense -->\n<!-- end -->", {"speed": "new"})
