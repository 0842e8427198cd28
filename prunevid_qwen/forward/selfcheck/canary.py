"""The question that `pruned` asks first: has anybody seen pruning work with this release of transformers?"""

from __future__ import annotations

import logging
import threading

import torch

from prunevid_qwen.adapters import seams
from prunevid_qwen.errors import SetupError
from prunevid_qwen.forward.selfcheck.checks import Attach, SelfCheck, attentions, self_check
from prunevid_qwen.forward.selfcheck.verdicts import VerdictKey, code_fingerprint, is_remembered, remember
from prunevid_qwen.version import PIP_NEWEST, TESTED

logger = logging.getLogger("prunevid_qwen")

_SHOWN = 4  # findings of a failed check in an error's text
_lock = threading.Lock()
_known: dict[VerdictKey, SelfCheck | None] = {}  # of this process; None for what an earlier one saw pass


def ensure_checked(family: str, attach: Attach) -> None:
    """Check the installed transformers once, unless it is a tested release or an earlier process saw it pass.

    Inside a region that torch.compile traces nothing is asked: the next call outside it does.

    Args:
        family: ``model_type`` of the model that is to be pruned.
        attach: `hooks.attached`.

    Raises:
        SetupError: the check failed. It names the release, what differed, and the newest tested release.
    """
    release = seams.transformers_release()
    if release in TESTED or torch.compiler.is_compiling():
        return
    key = VerdictKey(family, release, str(torch.__version__), "+".join(attentions()), code_fingerprint())
    with _lock:  # a second thread waits for the first one's check
        if key not in _known:
            _known[key] = None if is_remembered(key) else _checked(key, attach)
        found = _known[key]
    if found is not None and not found.ok:
        raise SetupError(_what_differed(found)) from next((c.error for c in found.failed if c.error), None)


def _checked(key: VerdictKey, attach: Attach) -> SelfCheck:
    found = self_check(key.family, attach)
    if found.ok:
        logger.info(
            "nobody tested this package with transformers %s; its self-check on a tiny %s passed in %.1f s",
            found.transformers, found.family, found.seconds,
        )  # fmt: skip
        if not _moves(key.transformers):
            remember(key, found.seconds)
    return found


def _moves(release: str) -> bool:
    """Whether one name stands for code that changes, as the main branch's "5.25.0.dev0" does."""
    return "dev" in release or "+" in release


def _what_differed(found: SelfCheck) -> str:
    points: dict[str, list[str]] = {}  # what was seen: where; a moved seam is seen the same everywhere
    for check in found.failed:
        points.setdefault(check.seen, []).append(check.name)
    said = [f"  {_several(names)}: {seen}" for seen, names in points.items()]
    if len(said) > _SHOWN:
        said[_SHOWN:] = [f"  and {len(said) - _SHOWN} more findings"]
    return (
        f"pruning does not work with transformers {found.transformers}, which nobody tested it with: its self-check on "
        f"a tiny {found.family} fails in {len(found.failed)} of {len(found.checks)} points:\n"
        + "\n".join(said)
        + ("" if any(PIP_NEWEST in line for line in said) else f"\n{PIP_NEWEST}")
    )


def _several(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more points"
