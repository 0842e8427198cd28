"""What --verbose adds to an answer: frames, positions, versions and options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prunevid_qwen.cli.verdict import Stats
from prunevid_qwen.config.flat import READING

_CORE = ("enable_cache_compression", "position_scheme", *READING)


def details(stats: Stats) -> str:
    """Return them as lines; of options those of the methods, which alone were read."""
    lines = []
    for video in stats["input"].get("videos", ()):
        times = " ".join(f"{time:.2f}" for time in video["timestamps"])
        lines.append(f"{video['source']}: read by {video['backend']}, grid {video['grid']}, frames at {times} s")
    lines.append(f"positions: {stats['position_scheme']}; {stats['dtype']}, attention {stats['attn_implementation']}")
    lines.append(" ".join(f"{name} {version}" for name, version in stats["versions"].items()))
    methods = stats.get("methods")
    if methods is None:  # a plan, or a receipt of 0.1
        lines.append(_written(stats["config"] or stats["plan"]))
    else:
        for part, own in methods.items():
            lines.append(f"{part} " + ("off" if own is None else f"{own['name']}: {_written(own['options'])}"))
        lines.append(_written({name: stats["config"][name] for name in _CORE}))
    return "\n".join(lines)


def _written(options: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in options.items())
