"""What ran, where and when, in a sentence: the command, the machine, the commit and the versions of a stored result."""

from __future__ import annotations

from typing import Any


def what_ran(run: dict[str, Any]) -> str:
    """Return the sentence on a result that was stored with `surroundings` and its command."""
    numbers = run["versions"] if "versions" in run else run["receipt"]["versions"]
    versions = ", ".join(f"{name} {number}" for name, number in numbers.items())
    changes = ", with uncommitted changes" if run["uncommitted_changes"] else ""
    return f"`{run['command']}` on {run['machine']}, at commit {str(run['commit'])[:10]}{changes}; {versions}."
