"""Visual token pruning for stock Hugging Face vision-language models: PruneVid (arXiv 2412.16117) and other methods.

Importing this package changes nothing, and loads neither torch nor transformers. Names are loaded on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from prunevid_qwen.version import __version__

if TYPE_CHECKING:
    from prunevid_qwen.answers.answer import Answer
    from prunevid_qwen.config import (
        PruneVidConfig,
        get_aggressive_config,
        get_baseline_config,
        get_config,
        get_conservative_config,
        get_fast_config,
        get_fastv_config,
        get_glimpse_config,
        get_paper_config,
        get_recommended_config,
        get_reference_config,
        get_stage1_only_config,
    )
    from prunevid_qwen.contract import check_reducer
    from prunevid_qwen.errors import (
        ConfigError,
        MediaError,
        PruneVidError,
        PruningNotApplied,
        SetupError,
        UnsupportedError,
    )
    from prunevid_qwen.forward.hooks import pruned
    from prunevid_qwen.forward.plan import Plan, Step
    from prunevid_qwen.kept import Kept
    from prunevid_qwen.model import PrunedVLM, PruneVidQwen25VL
    from prunevid_qwen.needs import AttentionQuery, Evidence, Needs, Probe, VisionQuery
    from prunevid_qwen.reducer import register
    from prunevid_qwen.tokens import Block, Mix, TokenLayout, TokenMap

_HOME = {
    "config": (
        "PruneVidConfig",
        "get_aggressive_config",
        "get_baseline_config",
        "get_config",
        "get_conservative_config",
        "get_fast_config",
        "get_fastv_config",
        "get_glimpse_config",
        "get_paper_config",
        "get_recommended_config",
        "get_reference_config",
        "get_stage1_only_config",
    ),
    "answers.answer": ("Answer",),
    "contract": ("check_reducer",),
    "errors": (
        "ConfigError",
        "MediaError",
        "PruneVidError",
        "PruningNotApplied",
        "SetupError",
        "UnsupportedError",
    ),
    "forward.hooks": ("pruned",),
    "kept": ("Kept",),
    "model": ("PruneVidQwen25VL", "PrunedVLM"),
    "needs": ("AttentionQuery", "Evidence", "Needs", "Probe", "VisionQuery"),
    "forward.plan": ("Plan", "Step"),
    "reducer": ("register",),
    "tokens": ("Block", "Mix", "TokenLayout", "TokenMap"),
}
_ROOM_OF = {name: room for room, names in _HOME.items() for name in names}

__all__ = [
    "Answer",
    "AttentionQuery",
    "Block",
    "ConfigError",
    "Evidence",
    "Kept",
    "MediaError",
    "Mix",
    "Needs",
    "Plan",
    "Probe",
    "PruneVidConfig",
    "PruneVidError",
    "PruneVidQwen25VL",
    "PrunedVLM",
    "PruningNotApplied",
    "SetupError",
    "Step",
    "TokenLayout",
    "TokenMap",
    "UnsupportedError",
    "VisionQuery",
    "__version__",
    "check_reducer",
    "get_aggressive_config",
    "get_baseline_config",
    "get_config",
    "get_conservative_config",
    "get_fast_config",
    "get_fastv_config",
    "get_glimpse_config",
    "get_paper_config",
    "get_recommended_config",
    "get_reference_config",
    "get_stage1_only_config",
    "pruned",
    "register",
]


def __getattr__(name: str) -> Any:
    if name not in _ROOM_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_ROOM_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
