"""The options under which a method is checked: its own defaults, and others of those whose names methods share."""

from __future__ import annotations

import dataclasses
from typing import Any

from prunevid_qwen.config.option_classes import names_in
from prunevid_qwen.errors import ConfigError

VARIANTS: dict[str, dict[str, Any]] = {
    "per group": {"selection_scope": "per_group", "merge_images": True},
    "little": {"keep_ratio": 0.01, "cluster_ratio": 0.01, "min_cluster_tokens": 0},
    "whole video": {"cluster_scope": "video", "cluster_ratio": 0.2, "min_cluster_tokens": 1, "merge_images": True},
    "mean place": {"merged_position": "mean", "min_cluster_tokens": 3},
    "first place": {"merged_position": "first", "min_cluster_tokens": 3},
    "each image": {"budget_scope": "image"},
    "little above the threshold": {"max_keep_ratio": 0.01, "min_keep_tokens": 2},
    "fixed share": {"keep_threshold": None, "keep_ratio": 0.1},
    "a count": {"keep_threshold": None, "keep_tokens": 3},
}
EVERYTHING: tuple[dict[str, Any], ...] = (
    {"keep_ratio": 1.0, "cluster_ratio": 1.0, "tau": 1.0},
    {"keep_ratio": 1.0, "cluster_ratio": 1.0, "tau": 1.0, "selection_scope": "per_group", "merge_images": True},
    {"keep_threshold": 0.0},
)
"""Options that keep every token, where a method has them."""


def varied(own: Any, changes: dict[str, Any]) -> Any:
    """Change what these options have of the changes; None where that is nothing, or they refuse it."""
    unread = ("keep_threshold",) if getattr(own, "every_flat_option", False) else ()
    having = {name: value for name, value in changes.items() if name in names_in(type(own)) and name not in unread}
    try:
        return dataclasses.replace(own, **having) if having else None
    except ConfigError:
        return None


def variants_of(own: Any) -> dict[str, Any]:
    """Return these options, as "as given", and their variants, by name."""
    if not dataclasses.is_dataclass(own):
        return {"as given": own}
    asked = VARIANTS
    if getattr(own, "averages", False):  # no average is below what the layers before the first cut see
        asked = {name: changes for name, changes in VARIANTS.items() if not {"keep_ratio", "keep_tokens"} & {*changes}}
        asked = {**asked, "an average": {"keep_ratio": 0.5}}
    found = {name: varied(own, changes) for name, changes in asked.items()}
    return {"as given": own, **{name: options for name, options in found.items() if options is not None}}
