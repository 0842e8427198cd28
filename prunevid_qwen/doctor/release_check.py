"""transformers: its release, and whether pruning works with it."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import metadata

from prunevid_qwen.doctor.finding import FAULT, OK, WARNING, Finding, first_line
from prunevid_qwen.version import PIP_NEWEST, TESTED

_SHOWN = 3  # failed points of a self-check in a sentence


def release() -> Iterator[Finding]:
    """Say whether the installed transformers is a supported release."""
    try:
        version = metadata.version("transformers")
    except metadata.PackageNotFoundError:
        yield Finding("transformers", FAULT, "is not installed", PIP_NEWEST)
        return
    from prunevid_qwen.adapters import check_transformers

    check_transformers(version)  # refuses with the fix in its own words
    tested = version in TESTED
    said = f"{version}, tested" if tested else f"{version}, which nobody tested: the self-check decides"
    yield Finding("transformers", OK, said, figures={"version": version, "tested": tested})


def self_checks(all_families: bool) -> Iterator[Finding]:
    """Prune tiny random models of some families, or of all, and compare with the stock ones."""
    from prunevid_qwen.adapters.tiny import EXAMPLES, installed_families

    there = installed_families()
    for family in there if all_families else [each for each in EXAMPLES if each in there]:
        yield self_check_of(family)


def self_check_of(family: str) -> Finding:
    """Say what the self-check of one family finds."""
    from prunevid_qwen.adapters.tiny import EXAMPLES
    from prunevid_qwen.forward.hooks import self_check

    found = self_check(family)
    figures = {"points": len(found.checks), "failed": [str(check) for check in found.failed]}
    figures |= {"transformers": found.transformers, "torch": found.torch, "seconds": round(found.seconds, 2)}
    name = f"self-check, {family}"
    if found.ok:
        said = f"passes: {len(found.checks)} points on a tiny random model"
        return Finding(name, OK, said, figures=figures)
    seen = list(
        dict.fromkeys(
            first_line(check.seen if check.error is None else _first_cause(check.error)) for check in found.failed
        )
    )
    points = f"fails in {len(found.failed)} of {len(found.checks)} points"
    if any("torchvision" in each for each in seen):
        return Finding(name, FAULT, f"{points}: {seen[0]}", "mend torchvision first, see above", figures)
    more = f"; and {len(seen) - _SHOWN} more findings" if len(seen) > _SHOWN else ""
    state = FAULT if family == EXAMPLES[0] or found.transformers not in TESTED else WARNING
    return Finding(name, state, f"{points}: {'; '.join(seen[:_SHOWN])}{more}", _remedy(found.transformers), figures)


def _first_cause(error: BaseException) -> BaseException:
    """Return the error at the bottom: transformers says of a failed import that it failed, and its cause says why."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _remedy(installed: str) -> str:
    """Return the fix for a failed self-check: another release, or a report if it is a tested one."""
    if installed in TESTED:
        return "pip install --force-reinstall torch transformers; if that does not help, report it with this text"
    return PIP_NEWEST
