"""What an earlier process found, in the user's cache folder: a file for each pair of releases and family.

Only what passed is written down. A failed check is made again by the next process, since it may have been mended
meanwhile, and an error that a file keeps alive would be the harder one to understand.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from tempfile import NamedTemporaryFile

from prunevid_qwen.errors import SetupError
from prunevid_qwen.version import __version__

logger = logging.getLogger("prunevid_qwen")

PACKAGE = Path(__file__).resolve().parents[2]
ABOVE = ("evaluation", "training", "cli", "moving_shapes")  # rooms that pruning does not use


@dataclass(frozen=True)
class VerdictKey:
    """What a verdict holds for.

    Args:
        family: ``model_type``.
        transformers: release.
        torch: release.
        attention: implementations that were checked, joined by "+".
        code: fingerprint of ours.
    """

    family: str
    transformers: str
    torch: str
    attention: str
    code: str


@cache
def code_fingerprint() -> str:
    """Fingerprint our version and every source file that pruning may use: a changed checkout is another code."""
    found = hashlib.sha256(__version__.encode())
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE)
        if name.parts[0] not in ABOVE:
            found.update(name.as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()


def folder() -> Path:
    """Return where verdicts are kept: ``$XDG_CACHE_HOME/prunevid_qwen``, by default ``~/.cache/prunevid_qwen``.

    On Windows the default is ``%LOCALAPPDATA%``. The variables are read each time.

    Raises:
        SetupError: this user has no home.
    """
    places = ("XDG_CACHE_HOME", "LOCALAPPDATA") if os.name == "nt" else ("XDG_CACHE_HOME",)
    for name in places:
        place = os.environ.get(name, "")
        if Path(place).is_absolute():  # the XDG specification: others are to be ignored
            return Path(place) / "prunevid_qwen"
    try:
        return Path.home() / ".cache" / "prunevid_qwen"
    except RuntimeError as error:
        raise SetupError(f"there is no home folder to keep a cache in ({error}): set XDG_CACHE_HOME") from error


def is_remembered(key: VerdictKey) -> bool:
    """Tell whether a check has passed for exactly this key. A file that cannot be read or understood is as none."""
    try:
        held = json.loads(_file(key).read_text(encoding="utf-8"))
    except (OSError, ValueError, SetupError):
        return False
    return isinstance(held, dict) and held.get("passed") is True and held.get("key") == asdict(key)


def remember(key: VerdictKey, seconds: float) -> None:
    """Write down that a check has passed. Where that cannot be done, say so once a process."""
    text = json.dumps({"passed": True, "key": asdict(key), "seconds": round(seconds, 3)}, indent=2) + "\n"
    try:
        target = _file(key)
        target.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile("w", encoding="utf-8", dir=target.parent, suffix=".part", delete=False) as file:
            pass
        try:
            Path(file.name).write_text(text, encoding="utf-8")
            os.replace(file.name, target)
        except OSError:
            Path(file.name).unlink(missing_ok=True)
            raise
    except (OSError, SetupError) as error:
        _say_once(str(error))


@cache
def _say_once(reason: str) -> None:
    logger.warning(
        "the self-check's result cannot be remembered, so the next process checks again: %s. Set XDG_CACHE_HOME to a "
        "folder that can be written to",
        reason,
    )


def _file(key: VerdictKey) -> Path:
    name = f"selfcheck-{key.family}-transformers-{key.transformers}-torch-{key.torch}.json"
    return folder() / re.sub(r"[^\w.+-]", "_", name)
