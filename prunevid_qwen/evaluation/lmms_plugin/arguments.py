"""What stands in ``--model_args``: every choice is there, because lmms-eval's cache knows of nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args, get_type_hints

from prunevid_qwen.config import PruneVidConfig, get_config, option_types
from prunevid_qwen.config.option_checks import check_count, unknown
from prunevid_qwen.errors import ConfigError, quoted
from prunevid_qwen.evaluation.protocol.protocol import BY_PROTOCOL, INSTEAD, Protocol, protocol_named, under

READING = (
    "sampler", "frames", "min_frames", "fps", "min_pixels", "max_pixels", "total_pixels", "seconds_per_grid",
    "position_scheme",
)  # fmt: skip
"""Choices of `Protocol` that are arguments; prompts, subtitles and lengths are the task's."""

_LOADING: dict[str, Any] = {
    "device": str | None,
    "device_map": str | None,
    "dtype": str | None,
    "attn_implementation": str | None,
    "revision": str | None,
    "cache_dir": str | None,
    "local_files_only": bool | None,
}
_OWN: dict[str, Any] = {
    "pretrained": str,
    "config": str,
    "pruning_rate": float,
    "workers": int,
    "system": str | None,
    "prefill": str,
    "max_new_tokens": int | None,
    "records": str | None,
}
_CONFIG = {name: kind for name, kind in option_types().items() if name not in BY_PROTOCOL}
_PROTOCOL = {name: get_type_hints(Protocol)[name] for name in READING}
KINDS = {**_OWN, **_LOADING, **_PROTOCOL, **_CONFIG}
"""Every model argument, with its type."""

_INSTEAD = {**INSTEAD, "max_num_frames": "frames", "model_path": "pretrained", "system_prompt": "system"}
_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


@dataclass(frozen=True)
class ModelArguments:
    """The model, what is pruned, and how media are read.

    Args:
        pretrained: "bundled", a folder or a hub id.
        loading: arguments of ``PruneVidQwen25VL.from_pretrained``; None means its default.
        config: what is pruned.
        protocol: how media are read; of its text and lengths nothing is used.
        workers: processes that read ahead, or 0 for a thread.
        system: instead of a task's own system message; None leaves it.
        prefill: how the assistant's answer begins, or "".
        max_new_tokens: over the task's, or None.
        records: folder of a line for each answer (tokens, seconds, errors), or None.
    """

    pretrained: str
    loading: dict[str, Any]
    config: PruneVidConfig
    protocol: Protocol
    workers: int = 1
    system: str | None = None
    prefill: str = ""
    max_new_tokens: int | None = None
    records: str | None = None


def read_arguments(given: Mapping[str, Any]) -> ModelArguments:
    """Turn model arguments into choices.

    Args:
        given: name -> value as lmms-eval reads it: int, float, bool, or str. Where None is a value, "none" says it;
            quotes around a text are taken off, and ``\\n`` in one is a line break.

    Raises:
        ConfigError: an unknown name (the nearest is offered), or a value of another type or out of its range.
    """
    for name in given:
        if name in _INSTEAD:
            raise ConfigError(f"prunevid_qwen takes {_INSTEAD[name]!r} for what you call {quoted(name)}: pass that")
        if name not in KINDS:
            raise ConfigError(unknown("a model argument of prunevid_qwen is one of", name, tuple(KINDS)))
    values = {name: _typed(name, value, KINDS[name]) for name, value in given.items()}
    own = {name: values[name] for name in _OWN if name in values}
    protocol = protocol_named("lmms", "mvbench", **{name: values[name] for name in READING if name in values})
    base = own.pop("config", "paper")
    changes = {name: values[name] for name in (*_CONFIG, "pruning_rate") if name in values}
    own.pop("pruning_rate", None)
    check_count("workers", own.get("workers", 1), 0)
    if own.get("max_new_tokens") is not None:
        check_count("max_new_tokens", own["max_new_tokens"], 1)
    loading = {name: values[name] for name in _LOADING if values.get(name) is not None}
    if len({"device", "device_map"} & set(loading)) == 2:
        raise ConfigError("device and device_map say the same thing twice: pass one of them")
    config = under(protocol, base, get_config(base)).replace(**changes)
    return ModelArguments(own.pop("pretrained", "bundled"), loading, config, protocol, **own)


def _typed(name: str, value: Any, kind: Any) -> Any:
    """Return a value as one of the types in ``kind``, whatever lmms-eval took it for."""
    kinds = get_args(kind) or (kind,)
    if isinstance(value, str):
        if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
            value = value[1:-1]
        if type(None) in kinds and value.lower() == "none":
            return None
        if bool in kinds and value.lower() in _TRUE + _FALSE:
            return value.lower() in _TRUE
        for number in (int, float):
            if number in kinds:
                try:
                    return number(value)
                except ValueError:
                    continue
        if str in kinds:
            return value.replace("\\n", "\n")
    elif isinstance(value, bool):
        if bool in kinds:
            return value
    elif bool in kinds and value in (0, 1):
        return bool(value)
    elif isinstance(value, int) and str in kinds:
        return str(value)  # a revision of digits
    elif float in kinds or (isinstance(value, int) and int in kinds):
        return value
    elif isinstance(value, float) and value.is_integer() and int in kinds:
        return int(value)  # 1e6
    elif value is None and type(None) in kinds:
        return None
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", type(None): "none"}
    wanted = " or ".join(words[part] for part in words if part in kinds)
    hint = f': where it is a text, put it into quotes ({name}="...")' if str in kinds else ""
    raise ConfigError(f"{name} is {wanted}, got {quoted(value)}{hint}")


def placed(loading: Mapping[str, Any], processes: int, own: str) -> dict[str, Any]:
    """Return the loading arguments of one of several processes, each of which holds a whole model.

    Args:
        loading: as asked for.
        processes: of the run.
        own: device that the launcher gives this process.

    Raises:
        ConfigError: what was asked for is one place for all of them, or another kind of device.
    """
    if processes == 1:
        return dict(loading)
    if "device_map" in loading:
        raise ConfigError(
            f"device_map={quoted(loading['device_map'])} spreads one model over the GPUs, but {processes} processes "
            "were started, each with a model of its own: leave device_map out, or start one process"
        )
    asked = loading.get("device")
    if asked is not None and asked != own.split(":")[0]:
        raise ConfigError(
            f"device={quoted(asked)} was asked for in each of {processes} processes, and this one was given {own}: "
            "leave device out (on a machine with GPUs, ACCELERATE_USE_CPU=true starts processes on the CPU)"
        )
    return {**loading, "device": own}
