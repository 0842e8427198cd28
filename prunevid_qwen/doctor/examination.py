"""All looks in order, and the report of what they found."""

from __future__ import annotations

import functools
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from prunevid_qwen.doctor import hub, kernel_checks, machine, packages, readers, release_check, torch_build
from prunevid_qwen.doctor.apart import Installed, imported
from prunevid_qwen.doctor.finding import FAULT, STATES, Finding, Inspection, findings_of
from prunevid_qwen.version import __version__


@dataclass(frozen=True)
class Examination:
    """What the doctor found.

    Args:
        findings: in the order of the report.
        seconds: it took.
    """

    findings: tuple[Finding, ...]
    seconds: float

    @property
    def faults(self) -> tuple[Finding, ...]:
        """What breaks the default use."""
        return tuple(each for each in self.findings if each.state == FAULT)

    @property
    def ok(self) -> bool:
        """Whether nothing breaks the default use."""
        return not self.faults

    def told(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        count = Counter(each.state for each in self.findings)
        return {
            "ok": self.ok,
            "version": __version__,
            "seconds": round(self.seconds, 2),
            "counts": {state: count[state] for state in STATES},
            "findings": [asdict(each) for each in self.findings],
        }


def examine(
    all_families: bool = False, plugins: Sequence[str] = (), tell: Callable[[str], None] | None = None
) -> Examination:
    """Look at everything that this package needs on this machine; nothing is downloaded, and nothing raises.

    Args:
        all_families: run the self-check of every family, not of three.
        plugins: files or modules with methods, that have to load.
        tell: called with the name of each look before it begins.
    """
    begun = time.monotonic()
    found: list[Finding] = []
    for look in _looks(all_families, plugins, found):
        if tell is not None:
            tell(look.name)
        found += findings_of(look)
    return Examination(tuple(found), time.monotonic() - begun)


def _looks(all_families: bool, plugins: Sequence[str], found: list[Finding]) -> Iterator[Inspection]:
    """Yield the looks in order; those that need torch or transformers only where these can be used."""
    there: dict[str, Installed] = {}

    def import_apart() -> Iterator[Finding]:
        there.update(imported(torch_build.MODULES))
        yield from torch_build.torch_itself(there)

    yield Inspection("Machine", "Python", machine.package_and_python)
    yield Inspection("Machine", "processors", machine.processors)
    yield Inspection("Machine", "memory", machine.memory)
    yield Inspection("Machine", "temporary files", machine.disk)
    yield Inspection("Libraries", "packages", packages.required, breaks=True)
    yield Inspection("Libraries", "torch", import_apart, breaks=True)
    torch_works = not any(each.name == "torch" and each.state == FAULT for each in found)
    if (
        torch_works
    ):  # without it nothing that needs it can be looked at; a transformers that is missing, `packages` says
        yield Inspection("Libraries", "transformers", release_check.release, breaks=True)
    yield Inspection("Libraries", "torchvision", functools.partial(torch_build.torchvision, there))
    yield Inspection("Libraries", "flash-attn", functools.partial(torch_build.fast_attention, there))
    yield Inspection("Video", "readers", readers.readers, breaks=True)
    if torch_works:
        yield Inspection("Computing", "GPU", torch_build.gpus)
        yield Inspection("Computing", "kernels", kernel_checks.kernels, breaks=True)
        if not any(each.name == "transformers" and each.state == FAULT for each in found):
            yield Inspection("Computing", "self-check", lambda: release_check.self_checks(all_families), breaks=True)
    yield Inspection("Downloads", "hub cache", hub.cache, breaks=True)
    if torch_works:  # whose folder stands in a room that loads it
        yield Inspection("Downloads", "own cache", hub.verdicts)
    yield Inspection("Downloads", "offline switches", hub.switches)
    yield Inspection("Downloads", "hub token", hub.token)
    yield Inspection("Methods of others", "plug-ins", lambda: packages.plugins(plugins))
    yield Inspection("Extras", "extras", packages.extras)
