"""What could change an answer, as short texts that two runs must share; hashes stand for what is long."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prunevid_qwen.errors import SetupError
from prunevid_qwen.evaluation.visual_cot.configs import NamedConfigs
from prunevid_qwen.evaluation.visual_cot.records import Sample
from prunevid_qwen.loading import HUB_ARGUMENTS, bundled_model, choose_device

_PIECE = 2**22


def options_of(
    samples: Sequence[Sample],
    configs: NamedConfigs,
    model_path: str,
    loading: dict[str, Any],
    suffix: str,
    max_new_tokens: int,
) -> dict[str, Any]:
    """Return what two runs must share for their answers to stand in one table, flat, so that a difference has a name.

    Images count by their paths, not their pixels: sets of a hundred gigabytes are not read to compare two runs, and
    whoever adds missing images goes on with the same run.

    Args:
        samples: what is asked.
        configs: who is asked.
        model_path: "bundled", a folder or a hub id.
        loading: arguments of ``from_pretrained``.
        suffix: behind every question.
        max_new_tokens: of the longest answer.
    """
    given = {name: value for name, value in loading.items() if value is not None and name != "local_files_only"}
    options: dict[str, Any] = {"sets": list(dict.fromkeys(sample.set for sample in samples))}
    for name in options["sets"]:
        own = [asdict(sample) for sample in samples if sample.set == name]
        options[f"records of {name}"] = f"{len(own)} records, sha256 {_sha256(json.dumps(own).encode())}"
    options |= {"suffix": suffix, "max_new_tokens": max_new_tokens, "model_path": model_path}
    options["model"] = _model(model_path, loading)
    options |= {f"loading: {name}": given[name] for name in sorted(given) if name != "device"}
    options["device"] = choose_device(loading.get("device")).split(":")[0]
    options["configs"] = [name for name, _ in configs]
    for name, config in configs:
        for option, value in config.to_dict().items():
            options[f"{name}: {option}"] = value
            if option.endswith("_path") and isinstance(value, str) and Path(value).exists():
                options[f"{name}: content of {option}"] = digest(Path(value))
    return options


def digest(path: Path) -> str:
    """Fingerprint a file, or all files of a folder with their names."""
    found = hashlib.sha256()
    files = [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file())
    for each in files:
        found.update(each.relative_to(path).as_posix().encode() + b"\0")
        with each.open("rb") as file:
            while piece := file.read(_PIECE):
                found.update(piece)
        found.update(b"\0")
    return f"sha256 {found.hexdigest()}"


def _model(model_path: str, loading: dict[str, Any]) -> str:
    """Fingerprint a model: the bytes of a folder, or the commit of a hub id, which names its bytes."""
    folder = Path(bundled_model() if model_path == "bundled" else model_path)
    if folder.is_dir():
        return digest(folder)
    from transformers.utils import cached_file

    hub = {name: loading[name] for name in HUB_ARGUMENTS if loading.get(name) is not None}
    try:
        config = cached_file(model_path, "config.json", **hub)
    except OSError as error:
        reason = str(error).strip().splitlines()[0]
        raise SetupError(
            f"cannot find the model {model_path!r}: {reason}\nWithout network, copy its folder here and pass that as "
            "--model_path; bundled needs no download"
        ) from error
    return f"commit {Path(config).parent.name}"  # .../snapshots/<commit>/config.json


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
