"""What ran, where and when, in a sentence: the command, the machine, the commit and the versions of a stored result."""

from __future__ import annotations

from typing import Any

from prunevid_qwen.config.presets import get_recommended_2026_11_config


def what_ran(run: dict[str, Any]) -> str:
    """Return the sentence on a result that was stored with `surroundings` and its command."""
    numbers = run["versions"] if "versions" in run else run["receipt"]["versions"]
    versions = ", ".join(f"{name} {number}" for name, number in numbers.items())
    changes = ", with uncommitted changes" if run["uncommitted_changes"] else ""
    return f"`{run['command']}` on {run['machine']}, at commit {str(run['commit'])[:10]}{changes}; {versions}."


def named_today(run: dict[str, Any]) -> dict[str, Any]:
    """Return a speed run whose rows have the names of today: an earlier one's `recommended` has another name now."""
    before = get_recommended_2026_11_config().merger_name
    old = any(
        str(config.get("merger")) == before for name, config in run["configs"].items() if name.endswith(": recommended")
    )
    if not old:
        return run
    names = {"recommended": "recommended_2026_11"}
    return {**run, "rows": [{**row, "variant": names.get(row["variant"], row["variant"])} for row in run["rows"]]}
