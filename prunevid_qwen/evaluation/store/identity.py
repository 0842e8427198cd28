"""What could change a line: code, machine, models, files, options."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import json
import os
import platform
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from prunevid_qwen.bundled import TOYS, source_of
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.errors import ConfigError, SetupError, quoted
from prunevid_qwen.loading import HUB_ARGUMENTS, check_source
from prunevid_qwen.video.backends import BACKENDS, load_backend

CODE = "code_sha256"
"""Where a record has `code_digest`."""

_PACKAGE = Path(__file__).resolve().parents[2]
_LARGE = 10**9  # bytes, from which on reading them is worth a bar
_KNOWN: dict[tuple[Any, ...], str] = {}

Progress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done and how much there is."""


@functools.cache  # what is edited now is not what this process runs
def code_digest() -> str:
    """Fingerprint this package's Python files: which state of the methods answered, committed or not."""
    found = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*.py")):
        found.update(path.relative_to(_PACKAGE).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()


def surroundings() -> dict[str, Any]:
    """Return the code's fingerprint, its commit, whether the package differs from that, and the machine."""

    def git(*words: str) -> str:
        with contextlib.suppress(OSError):
            done = subprocess.run(["git", *words], cwd=_PACKAGE.parent, capture_output=True, text=True, check=False)
            return done.stdout.strip()
        return ""

    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    processors = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        CODE: code_digest(),
        "commit": git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(git("status", "--porcelain", "--untracked-files=no", _PACKAGE.name)),
        "machine": f"{platform.machine()}, {os.cpu_count()} x {(processors or [platform.processor()])[0]}",
    }


def digest(path: Path, tell: Progress = lambda *_: None) -> str:
    """Fingerprint a file, or all files of a folder with their names; hidden ones hold the time of a download."""
    found, done, files = hashlib.sha256(), 0, [path] if path.is_file() else _files(path)
    total = sum(each.stat().st_size for each in files)
    for each in files:
        found.update(each.relative_to(path).as_posix().encode() + b"\0")
        with each.open("rb") as file:
            while piece := file.read(2**22):
                found.update(piece)
                done += len(piece)
                if total > _LARGE:
                    tell("fingerprint of the model, MB", done // 10**6, total // 10**6)
        found.update(b"\0")
    return f"sha256 {found.hexdigest()}"


def _files(folder: Path) -> list[Path]:
    seen = (each for each in folder.rglob("*") if not any(p.startswith(".") for p in each.relative_to(folder).parts))
    return sorted(each for each in seen if each.is_file())


def digest_of(value: Any) -> str:
    """Fingerprint JSON."""
    return f"sha256 {hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()}"


def model_fingerprint(model_path: str, loading: dict[str, Any], tell: Progress = lambda *_: None) -> str:
    """Fingerprint a model: the bytes of a folder, or the commit of a hub id; raises as `model_options`."""
    folder = Path(source_of(model_path))
    check_source(str(folder))
    if folder.is_dir():
        # one process may run several data sets: tens of gigabytes are read once, unless a file was touched
        seen = tuple((str(each), each.stat().st_size, each.stat().st_mtime_ns) for each in _files(folder))
        if seen not in _KNOWN:
            _KNOWN[seen] = digest(folder, tell)
        return _KNOWN[seen]
    from transformers.utils import cached_file

    hub = {name: loading[name] for name in HUB_ARGUMENTS if loading.get(name) is not None}
    try:
        config = cached_file(model_path, "config.json", **hub)
    except OSError as error:
        reason = str(error).strip().splitlines()[0]
        raise SetupError(
            f"cannot find the model {quoted(model_path)}: {reason}\nWithout network, copy its folder "
            f"here and pass that as --model_path; {', '.join(TOYS)} need no download"
        ) from error
    return f"commit {Path(config).parent.name}"  # .../snapshots/<commit>/config.json


def reader_options(backend: str) -> dict[str, str]:
    """Return the releases of what turns files into pixels, flat: another FFmpeg may round colors otherwise."""
    libraries = {"pyav": "av", "pillow": "PIL"}  # frames are chosen with PyAV, and decoded by ``backend``
    if backend != "pyav":
        load_backend(backend)
        libraries[backend] = BACKENDS[backend][1].split(".")[0]
    modules = {name: importlib.import_module(library) for name, library in libraries.items()}
    return {f"reader: {name}": str(getattr(module, "__version__", "unknown")) for name, module in modules.items()}


def model_options(
    model_path: str, loading: dict[str, Any], device: str, tell: Progress = lambda *_: None
) -> dict[str, Any]:
    """Return what of a model and its loading two runs must share, flat, or raise: the model is not there."""
    kept = {name: loading[name] for name in sorted(loading) if name not in ("local_files_only", "device")}
    return {
        "model_path": model_path,
        "model": model_fingerprint(model_path, loading, tell),
        **{f"loading: {name}": value for name, value in kept.items() if value is not None},
        "device": device.split(":")[0],
    }


def config_options(config: PruneVidConfig) -> dict[str, Any]:
    """Return every option of a config, and the content of the files that it names."""
    options = config.flat()
    files = {option: value for option, value in options.items() if option.endswith("_path") and isinstance(value, str)}
    return options | {f"content of {each}": digest(Path(file)) for each, file in files.items() if Path(file).exists()}


def plugin_options(plugins: Iterable[str]) -> dict[str, str]:
    """Return what of the plug-ins of a run another one must share, flat; one that is not there is a `ConfigError`.

    A file counts by its bytes, a module by the version of the package that brings it, else by the bytes of its file.
    """
    from importlib.metadata import packages_distributions, version

    options = {}
    for source in plugins:
        name, file = source, Path(source)
        if source.endswith(".py") or file.is_file():
            name = file.stem
        elif packages := packages_distributions().get(source.partition(".")[0]):
            options[f"plugin: {name}"] = version(packages[0])
            continue
        elif spec := importlib.util.find_spec(source):
            file = Path(spec.origin or "")
        if not file.is_file():
            raise ConfigError(f"no plug-in at {quoted(source)}: pass a .py file or the name of a module")
        options[f"plugin: {name}"] = digest(file)
    return options
