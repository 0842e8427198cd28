"""What pip was to install: the packages that this one requires, its extras, and the methods that others announce."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import metadata

from prunevid_qwen.config.plugins import GROUP, load_announced, load_plugin
from prunevid_qwen.doctor.finding import ABSENT, FAULT, OK, WARNING, Finding
from prunevid_qwen.errors import PruneVidError

EXTRAS = {
    "app": "a page for the browser",
    "serve": "the server",
    "serve-ray": "the server on several machines",
    "judge": "answers scored by a language model",
    "bench": "plots",
    "eval": "data sets with questions in parquet",
    "ray": "runs on many GPUs",
    "lmms": "lmms-eval",
    "grpo": "training GlimpsePrune+",
}
"""Extras that no other line of the report is about, and what they are for."""
_NAME = "prunevid_qwen"


def required() -> Iterator[Finding]:
    """Say which of the required packages are missing or too old."""
    try:
        asked = _asked()
    except metadata.PackageNotFoundError:
        yield Finding("packages", OK, "not installed by pip, so its requirements are not known", "pip install -e .")
        return
    wrong = [problem for each in asked if (problem := _problem(each, ""))]
    count = sum(each.marker is None or "extra" not in str(each.marker) for each in asked)
    if wrong:
        yield Finding("packages", FAULT, "; ".join(wrong), f"pip install -U {_NAME}", {"wrong": wrong})
    else:
        yield Finding("packages", OK, f"all {count} required ones are there", figures={"wrong": []})


def extras() -> Iterator[Finding]:
    """Say which extras are installed."""
    try:
        asked = _asked()
    except metadata.PackageNotFoundError:
        return
    for name, purpose in EXTRAS.items():
        own = [each for each in asked if each.marker is not None and _is_of(each, name)]
        wrong = [problem for each in own if (problem := _problem(each, name))]
        fix = f"pip install '{_NAME}[{name}]'"
        old = [each for each in wrong if "not installed" not in each]
        if not own or not wrong:
            yield Finding(name, OK, f"installed ({purpose})")
        elif len(old) == len(wrong):
            yield Finding(name, WARNING, f"{'; '.join(old)} ({purpose})", fix)
        else:
            yield Finding(name, ABSENT, f"not installed ({purpose})", fix)


def _asked() -> list:  # type: ignore[type-arg]
    from packaging.requirements import Requirement

    return [Requirement(each) for each in metadata.requires(_NAME) or ()]


def _is_of(requirement, extra: str) -> bool:  # type: ignore[no-untyped-def]
    marker = requirement.marker
    return bool(marker.evaluate({"extra": extra})) and not marker.evaluate({"extra": ""})


def _problem(requirement, extra: str) -> str:  # type: ignore[no-untyped-def]
    """Return what is wrong with a package that is asked for here, "" where nothing is."""
    if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
        return ""
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return f"{requirement.name} is not installed"
    if requirement.specifier.contains(version, prereleases=True):
        return ""
    return f"{requirement.name} is {version}, and {requirement.specifier} is asked for"


def plugins(sources: Sequence[str] = ()) -> Iterator[Finding]:
    """Load the methods that installed packages announce, and the files that were named.

    Args:
        sources: what ``--plugin`` names.
    """
    announced = sorted({each.name for each in metadata.entry_points(group=GROUP)})
    for name, load, bad in (
        *((name, load_announced, WARNING) for name in announced),
        *((source, load_plugin, FAULT) for source in sources),
    ):
        try:
            load(name)
        except PruneVidError as error:
            yield Finding(name, bad, str(error), "mend it, or uninstall the package that brings it")
        else:
            yield Finding(name, OK, "loads")
    if not (announced or sources):
        yield Finding("announced", OK, "none")
