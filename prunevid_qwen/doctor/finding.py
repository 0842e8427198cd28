"""What the doctor says of one thing that it looked at, and a look that may fail without ending the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from prunevid_qwen.errors import PruneVidError, excerpt

OK, ABSENT, WARNING, FAULT = "ok", "absent", "warning", "fault"
STATES = {
    OK: "works",
    ABSENT: "optional, and not installed",
    WARNING: "works by default; something beside it does not",
    FAULT: "breaks the default use",
}


@dataclass(frozen=True)
class Finding:
    """One line of a report.

    Args:
        name: of what was looked at.
        state: of `STATES`.
        said: a sentence.
        fix: what to type or to do; "" where nothing is to be done.
        figures: the numbers behind the sentence, ready for JSON.
        group: heading under which it stands.
    """

    name: str
    state: str
    said: str
    fix: str = ""
    figures: dict[str, Any] = field(default_factory=dict)
    group: str = ""


@dataclass(frozen=True)
class Inspection:
    """One look at the machine.

    Args:
        group: heading of what it finds.
        name: what is looked at, for the progress line, and of the finding where the look itself fails.
        at: makes the findings.
        breaks: the default use does not go without what is looked at.
    """

    group: str
    name: str
    at: Callable[[], Iterable[Finding]]
    breaks: bool = False


def findings_of(look: Inspection) -> list[Finding]:
    """Inspection, and return what was found; a look that fails is a finding too."""
    found: list[Finding] = []
    try:
        for each in look.at():
            found.append(each)
    except PruneVidError as error:  # says what to do in its own words
        found.append(Finding(look.name, FAULT if look.breaks else WARNING, str(error)))
    except Exception as error:
        # Any exception at all: what is looked at are other people's libraries on a machine on which something is
        # wrong, and whatever they raise is the finding that was asked for.
        said = f"could not be looked at: {first_line(error)}"
        found.append(Finding(look.name, FAULT if look.breaks else WARNING, said, "reinstall what the error names"))
    return [replace(each, group=look.group) for each in found]


def first_line(error: BaseException | str) -> str:
    """Return the first line of an error, behind the name of its class."""
    lines = str(error).strip().splitlines() or [""]
    kind = "" if isinstance(error, str) else type(error).__name__
    return excerpt(": ".join(filter(None, (kind, lines[0]))))
