"""What others run, by name: protocols with their sources, in presets.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from prunevid_qwen.config.option_checks import unknown
from prunevid_qwen.errors import ConfigError, quoted
from prunevid_qwen.evaluation.datasets.layout import names
from prunevid_qwen.evaluation.protocol.harness_scorers import columns_of
from prunevid_qwen.evaluation.protocol.prompts import prompt_of, prompts
from prunevid_qwen.evaluation.protocol.protocol import Protocol
from prunevid_qwen.evaluation.yaml_data import Marked, read_as


@cache
def presets() -> Mapping[str, Mapping[str, Any]]:
    """Return the choices of each preset; "for" holds those of single data sets.

    Raises:
        ConfigError: the file is wrong, or a preset is no protocol.
    """
    found = read_as(Path(__file__).with_name("presets.yaml"), dict[str, dict[str, Marked]])
    plain = {preset: {name: given.plain() for name, given in choices.items()} for preset, choices in found.items()}
    for preset, choices in plain.items():
        for dataset in names():
            try:
                if _fits(choices, dataset):
                    Protocol.from_dict(_choices(choices, dataset))
            except ConfigError as error:
                raise found[preset]["prompt"].error(error) from error
    return plain


def _fits(preset: Mapping[str, Any], dataset: str) -> bool:
    asked = any(prompt.name == preset["prompt"] and prompt.is_for(dataset) for prompt in prompts())
    return asked and preset.get("dataset", dataset) == dataset


def _choices(preset: Mapping[str, Any], dataset: str) -> dict[str, Any]:
    own = {name: value for name, value in preset.items() if name != "for"}
    return {**own, "dataset": dataset, **preset.get("for", {}).get(dataset, {})}


def presets_for(dataset: str) -> tuple[str, ...]:
    """Return the names of the presets that a data set can be asked under.

    Raises:
        ConfigError: an unknown data set.
    """
    prompt_of("letter", dataset)
    return tuple(name for name, preset in presets().items() if _fits(preset, dataset))


def protocol_named(name: str, dataset: str, **changes: Any) -> Protocol:
    """Return a preset for a data set, with some choices changed.

    Raises:
        ConfigError: an unknown preset or choice, or a preset that is not for this data set; those that are, are named.
    """
    if name not in presets():
        raise ConfigError(unknown("a protocol is one of", name, presets()))
    fits = presets_for(dataset)
    if name not in fits:
        raise ConfigError(f"protocol {quoted(name)} is not for {dataset}: pass {', '.join(fits)}")
    return Protocol.from_dict({**_choices(presets()[name], dataset), **changes})


def protocol_for(dataset: str, name: str | None = None, **changes: Any) -> Protocol:
    """Return a preset for a data set, lmms-eval's where nobody names one: most published comparisons are under it.

    Raises:
        ConfigError: as `protocol_named`, a choice that the sampler does not look at, or a scorer that there is none of.
    """
    columns_of(dataset)  # a misspelt scorer would be found when all is answered
    name = name or next(each for each in ("lmms", dataset, "letter") if each in presets_for(dataset))
    protocol = protocol_named(name, dataset, **changes)
    idle = [choice for choice in ("fps", "min_frames") if choice in changes and protocol.sampler != "fps"]
    if idle:
        raise ConfigError(
            f"{' and '.join(idle)} would change nothing: sampler {protocol.sampler!r} of protocol {name!r} takes "
            f"{protocol.frames} frames of every video; pass sampler fps with it, or leave it out"
        )
    return protocol
