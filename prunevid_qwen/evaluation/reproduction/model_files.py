"""What can be known of a model without loading it: how deep it is, and whether its files are all there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from prunevid_qwen.errors import ConfigError, SetupError
from prunevid_qwen.evaluation.reproduction.budget import Depth
from prunevid_qwen.loading import HUB_ARGUMENTS, bundled_model, check_source

_INDEX, _WEIGHTS = "model.safetensors.index.json", "model.safetensors"


def folder_of(path: str) -> Path | None:
    """Return the folder of a local model, or None for a hub id."""
    folder = Path(bundled_model() if path == "bundled" else path)
    return folder if folder.is_dir() else None


def depth_of(model_path: str, loading: dict[str, Any], glimpse_path: str | None = None) -> Depth:
    """Read how deep a model is, and where its predictor selects.

    Args:
        model_path: "bundled", a folder or a hub id.
        loading: arguments of ``from_pretrained``; None means its default.
        glimpse_path: of the predictor: "bundled" or a folder; a hub id is taken for a published one.

    Raises:
        SetupError: the hub is needed and does not answer.
        ConfigError: a folder without a config of a Qwen2.5-VL, or neither a folder nor a hub id.
    """
    folder = folder_of(model_path)
    if folder is None:
        from transformers.utils import cached_file

        check_source(model_path)
        hub = {name: loading[name] for name in HUB_ARGUMENTS if loading.get(name) is not None}
        try:
            file = Path(cached_file(model_path, "config.json", **hub))
        except OSError as error:
            raise SetupError(
                f"cannot find the model {model_path!r}: {str(error).strip().splitlines()[0]}\nWithout network, copy "
                "its folder here and pass that as --model_path"
            ) from error
    else:
        file = folder / "config.json"
    return Depth(_layers(file), _selects_after(glimpse_path))


def check_files(model_path: str) -> str:
    """Look whether the weights of a local model are all there; return a sentence.

    Raises:
        ConfigError: it is neither a folder of a model nor a hub id.
        SetupError: some are missing; the first is named.
    """
    if model_path != "bundled":
        check_source(model_path)
    folder = folder_of(model_path)
    if folder is None:
        return f"{model_path}: not a folder here, so its files were not looked at"
    index = folder / _INDEX
    if index.is_file():
        wanted = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    else:
        wanted = [_WEIGHTS]
    missing = [name for name in wanted if not (folder / name).is_file()]
    if missing:
        raise SetupError(
            f"{folder} lacks {len(missing)} of {len(wanted)} files of weights, the first is {missing[0]}: was its "
            "download cut short?"
        )
    return f"{folder}: config and {len(wanted)} file(s) of weights are there"


def _layers(file: Path) -> int:
    if not file.is_file():
        raise ConfigError(f"{file.parent} has no config.json: pass the folder that holds the model's files")
    config = json.loads(file.read_text(encoding="utf-8"))
    layers = config.get("text_config", config).get("num_hidden_layers")
    if not isinstance(layers, int):
        raise ConfigError(f"{file} says no num_hidden_layers: is it the config of a Qwen2.5-VL model?")
    return layers


def _selects_after(glimpse_path: str | None) -> int | None:
    if glimpse_path is None or not (glimpse_path == "bundled" or Path(glimpse_path).is_dir()):
        return None
    from prunevid_qwen.stage2_select.glimpse import GlimpseVIP

    return GlimpseVIP.from_pretrained(glimpse_path).facts.reduce_layer
