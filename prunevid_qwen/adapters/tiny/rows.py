"""The tiny families: each kind has its file, with its rows and its media."""

from __future__ import annotations

from collections.abc import Mapping

from prunevid_qwen.adapters.releases import numbers_of
from prunevid_qwen.adapters.seams import transformers_release
from prunevid_qwen.adapters.tiny.family import TinyFamily
from prunevid_qwen.adapters.tiny.llava import LLAVA
from prunevid_qwen.adapters.tiny.qwen import QWEN

FAMILIES: Mapping[str, TinyFamily] = {
    **QWEN,
    **LLAVA,
}


def installed_families() -> Mapping[str, TinyFamily]:
    """Return the tiny families whose classes the installed transformers has."""
    installed = numbers_of(transformers_release())
    return {name: row for name, row in FAMILIES.items() if numbers_of(row.since) <= installed}
