"""The tiny families: each kind has its file, with its rows and its media."""

from __future__ import annotations

from collections.abc import Mapping

from prunevid_qwen.adapters.releases import numbers_of
from prunevid_qwen.adapters.seams import transformers_release
from prunevid_qwen.adapters.tiny.family import TinyFamily
from prunevid_qwen.adapters.tiny.llava import LLAVA
from prunevid_qwen.adapters.tiny.newlines import LLAVA_NEXT
from prunevid_qwen.adapters.tiny.qwen import QWEN
from prunevid_qwen.adapters.tiny.tiles import INTERNVL
from prunevid_qwen.adapters.tiny.two_towers import VIDEO_LLAVA

FAMILIES: Mapping[str, TinyFamily] = {
    **QWEN,
    **LLAVA,
    **LLAVA_NEXT,
    **VIDEO_LLAVA,
    **INTERNVL,
}

EXAMPLES = ("qwen2_5_vl", "qwen3_vl", "llava")
"""Families that stand for the others where a second counts, the default model's first: both kinds of Qwen's towers, and
a model without one."""


def installed_families() -> Mapping[str, TinyFamily]:
    """Return the tiny families whose classes the installed transformers has."""
    installed = numbers_of(transformers_release())
    return {name: row for name, row in FAMILIES.items() if numbers_of(row.since) <= installed}
