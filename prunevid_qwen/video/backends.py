"""The libraries that read video files: which there are, and what to do where one is missing."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from prunevid_qwen.errors import SetupError

# Name of the option: module here, module it imports, extra that installs it.
BACKENDS = {
    "pyav": ("pyav", "av", "pyav"),
    "decord": ("decord", "decord", "decord"),
    "opencv": ("opencv", "cv2", "opencv"),
    "torchcodec": ("torchcodec", "torchcodec.decoders", "torchcodec"),
    "qwen-vl-utils": ("qwen_vl_utils", "qwen_vl_utils", "qwen-vl-utils"),
}
# Seen with decord2 3.4 and torchcodec 0.13: a segmentation fault, which no except clause catches.
_CLASHES = {"torchcodec": "decord", "decord": "torchcodec"}


def load_backend(backend: str) -> Any:
    """Import the module of this package that reads with ``backend``, and the library under it.

    Raises:
        SetupError: the library is not installed, or its import fails.
    """
    ours, theirs, extra = BACKENDS[backend]
    clash = _CLASHES.get(backend)
    if clash in sys.modules:
        raise SetupError(
            f'video_backend="{backend}": {clash} is already loaded in this process, and the two together crash Python '
            f'on AV1 videos (each carries an FFmpeg): use one of them per process, or video_backend="pyav"'
        )
    try:
        importlib.import_module(theirs)
    except ModuleNotFoundError as error:
        missing = error.name or theirs
        if missing == theirs.split(".")[0]:
            why = f"{theirs.split('.')[0]} is not installed"
        else:
            why = f"{backend} is installed, but needs {missing}, which is not"
        raise SetupError(f'video_backend="{backend}": {why}. {_remedy(backend, extra)}') from error
    except Exception as error:  # a shared library that is missing shows as OSError, ImportError or RuntimeError
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise SetupError(
            f'video_backend="{backend}": importing {theirs} failed ({said[0][:200]}). {_remedy(backend, extra)}'
        ) from error
    return importlib.import_module(f"prunevid_qwen.video.{ours}")


def _remedy(backend: str, extra: str) -> str:
    needs = {
        "torchcodec": " It also needs FFmpeg's shared libraries (for example 'apt install ffmpeg') and a build that "
        "fits the installed torch.",
        "qwen-vl-utils": " It also needs a torchvision that imports beside the installed torch, and decord or "
        "torchcodec to read with.",
    }.get(backend, "")
    install = "pip install av" if backend == "pyav" else f"pip install prunevid-qwen[{extra}]"
    other = "" if backend == "pyav" else ', or use video_backend="pyav"'
    return f"Run '{install}'{other}.{needs}"
