"""A hook of mkdocs: pages link to files of the repository, and the site has those too.

A link such as ``../PAPERS.md`` works where a page is read in the repository. Markdown files and pictures outside
``docs/`` are added to the site. A link to code, a raw result or a folder becomes its path.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(\.\./([^)#\s]+)(#[^)]*)?\)")
_PICTURE = re.compile(r'((?:src|srcset)="|!\[[^\]]*\]\()\.\./([^")\s]+)')
_SHOWN = {".md", ".svg", ".png"}


def on_files(files: Any, config: Any) -> Any:
    """Add what pages link to and the folder of pages does not hold."""
    pages = [path.read_text(encoding="utf-8") for path in sorted(Path(config["docs_dir"]).glob("*.md"))]
    linked = {name for page in pages for _, name, _ in _LINK.findall(page)}
    linked |= {name for page in pages for _, name in _PICTURE.findall(page)}
    for name in sorted(linked):
        if _in_site(name):
            content = (ROOT / name).read_bytes()
            text = _as_path(content.decode(), linked) if name.endswith(".md") else content
            files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, **_page: Any) -> str:
    """Point links of a page at what `on_files` added; a code file or a folder is named by its path."""

    def link(match: re.Match[str]) -> str:
        text, name, anchor = match.groups()
        return f"[{text}]({name}{anchor or ''})" if _in_site(name) else f"{text} (`{name}`)"

    return _PICTURE.sub(r"\1\2", _LINK.sub(link, markdown))


def _in_site(name: str) -> bool:
    return Path(name).suffix in _SHOWN and (ROOT / name).is_file()


def _as_path(text: str, linked: set[str]) -> str:
    """Take links out of a page that was not written for the site, but those to pages that it has."""

    def link(match: re.Match[str]) -> str:
        text, target = match.groups()
        name = target.partition("#")[0]
        keep = "://" in target or target.startswith("#") or name in linked
        return match[0] if keep else f"{text} (`{target}`)"

    return re.sub(r"(?<!!)\[([^\]]*)\]\(([^)\s]+)\)", link, text)
