"""Where downloads are kept, whether they can be, and what keeps the network away."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from prunevid_qwen.doctor.finding import FAULT, OK, WARNING, Finding
from prunevid_qwen.doctor.machine import room_in
from prunevid_qwen.errors import SetupError

OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
_ON = ("1", "ON", "YES", "TRUE")  # as the hub's library reads a switch


def cache() -> Iterator[Finding]:
    """Say where the hub's downloads are kept, whether that can be written to, and how much room there is."""
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE).expanduser()
    fix = "export HF_HOME=/a/folder/that/can/be/written/to"
    why = why_not_writable(folder)
    if why is None:
        yield Finding("hub cache", OK, f"{folder} can be written to", figures={"folder": str(folder)})
        yield room_in("room in it", _nearest(folder), fix)
    else:
        said = f"{folder} cannot be written to ({why}), so no model can be downloaded"
        yield Finding("hub cache", FAULT, said, fix, {"folder": str(folder)})


def verdicts() -> Iterator[Finding]:
    """Say whether the results of self-checks can be kept."""
    from prunevid_qwen.forward.selfcheck.verdicts import folder as of_verdicts

    fix = "export XDG_CACHE_HOME=/a/folder/that/can/be/written/to"
    try:
        folder = of_verdicts()
    except SetupError as error:
        yield Finding("own cache", WARNING, str(error), fix)
        return
    why = why_not_writable(folder)
    figures = {"folder": str(folder)}
    if why is None:
        yield Finding("own cache", OK, f"{folder} can be written to", figures=figures)
    else:
        said = f"{folder} cannot be written to ({why}), so each process checks an untested transformers again"
        yield Finding("own cache", WARNING, said, fix, figures)


def switches() -> Iterator[Finding]:
    """Say which switches keep the libraries off the network."""
    given = {name: os.environ[name] for name in OFFLINE if name in os.environ}
    on = [name for name, value in given.items() if value.strip().upper() in _ON]
    if on:
        said = f"{' and '.join(on)} set: models come from the cache alone, none is downloaded"
        yield Finding("offline switches", OK, said, f"unset {' '.join(on)}, to download models", {"set": given})
    else:
        yield Finding("offline switches", OK, "none set: models may be downloaded", figures={"set": given})


def token() -> Iterator[Finding]:
    """Say whether there is a token for models behind a licence; never what it is."""
    from huggingface_hub import get_token

    there = get_token() is not None
    said = "there is one" if there else "none: models behind a licence cannot be downloaded"
    yield Finding("hub token", OK, said, "" if there else "hf auth login, if you need one", {"present": there})


def why_not_writable(folder: Path) -> str | None:
    """Return why no file can be made in a folder, or in one that is to be made; None if it can."""
    try:
        with tempfile.TemporaryFile(dir=_nearest(folder)):
            return None
    except OSError as error:
        return str(error.strerror or error)


def _nearest(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that exists."""
    return next((each for each in (folder, *folder.parents) if each.exists()), Path(folder.anchor or "."))
