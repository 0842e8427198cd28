"""What others run, by name: protocols with their sources. A published figure is comparable only under its own."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from prunevid_qwen.config.option_checks import unknown
from prunevid_qwen.errors import ConfigError, quoted
from prunevid_qwen.evaluation.protocol.prompts import prompt_of
from prunevid_qwen.evaluation.protocol.protocol import TOKEN_PIXELS, Protocol

_LONG = {"sampler": "fps", "fps": 2.0, "min_frames": 4, "frames": 768}

PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        # MVBench's notebook and PruneVid: 16 frames, 100 tokens. Their 224 pixels are another vision tower's; frames
        # and pixels of PruneVid's Qwen2.5-VL rows are not published, so pixels are Qwen's.
        "mvbench_videochat2": {
            "dataset": "mvbench", "prompt": "videochat2", "sampler": "mvbench_mid", "frames": 16, "max_new_tokens": 100,
        },
        # The authors' text, and Qwen2.5-VL's own report: at most 768 frames and 24,576 visual tokens.
        "videomme_official": {"dataset": "videomme", "prompt": "videomme_official", **_LONG},
        "videomme_official_subtitles": {
            "dataset": "videomme", "prompt": "videomme_official", "subtitles": "frames", **_LONG,
        },
        # lmms-eval 0.7.3 with its Qwen2.5-VL defaults: 32 frames of 256 to 768 tokens (it says 2048, qwen-vl-utils
        # caps); seconds per grid as when the published figures were made. FlashVID, HoliTom, VidCom2.
        "lmms": {
            "prompt": "lmms", "sampler": "linspace", "frames": 32, "min_pixels": 256 * TOKEN_PIXELS,
            "max_pixels": 768 * TOKEN_PIXELS, "total_pixels": 115_200 * TOKEN_PIXELS, "seconds_per_grid": "one",
        },
        # Qwen's own Video-MME script, but greedy: theirs samples at temperature 0.7 and asks a language model to score.
        "qwen": {
            "prompt": "qwen", "sampler": "fps", "fps": 2.0, "min_frames": 4, "frames": 512,
            "max_pixels": 512 * TOKEN_PIXELS, "max_new_tokens": 128,
        },
        # MLVU's own text, its answer's beginning included; frames and pixels are ours.
        "mlvu": {"dataset": "mlvu", "prompt": "mlvu"},
        # Ours, for any data set: 32 equally spaced frames, the pixels of Qwen2.5-VL.
        "letter": {"prompt": "letter"},
        "letter_subtitles": {"prompt": "letter_subtitles", "subtitles": "frames"},
    }
)  # fmt: skip

_LONGER_ANSWERS = {("lmms", "longvideobench"): 32}


def protocol_named(name: str, dataset: str, **changes: Any) -> Protocol:
    """Return a preset for a data set, with some choices changed.

    Raises:
        ConfigError: an unknown preset or choice, or a preset that is not for this data set; those that are, are named.
    """
    if name not in PRESETS:
        raise ConfigError(unknown("a protocol is one of", name, tuple(PRESETS)))
    choices = dict(PRESETS[name])
    fits = presets_for(dataset)
    if name not in fits:
        raise ConfigError(f"protocol {quoted(name)} is not for {dataset}: pass {', '.join(fits)}")
    choices["dataset"] = dataset
    if (name, dataset) in _LONGER_ANSWERS:
        choices["max_new_tokens"] = _LONGER_ANSWERS[name, dataset]
    return Protocol.from_dict({**choices, **changes})


def presets_for(dataset: str) -> tuple[str, ...]:
    """Return the names of the presets that a data set can be asked under.

    Raises:
        ConfigError: an unknown data set.
    """
    prompt_of("letter", dataset)
    return tuple(name for name, choices in PRESETS.items() if _fits(choices, dataset))


def _fits(choices: Mapping[str, Any], dataset: str) -> bool:
    if choices.get("dataset", dataset) != dataset:
        return False
    try:
        prompt_of(choices["prompt"], dataset)
    except ConfigError:
        return False
    return True


def protocol_for(dataset: str, name: str | None = None, **changes: Any) -> Protocol:
    """Return a preset for a data set, lmms-eval's where nobody names one: most published comparisons are under it.

    Raises:
        ConfigError: as `protocol_named`, or a choice that the sampler does not look at.
    """
    fits = presets_for(dataset)
    default = next(each for each in ("lmms", dataset, "letter") if each in fits)
    protocol = protocol_named(name or default, dataset, **changes)
    idle = [choice for choice in ("fps", "min_frames") if choice in changes and protocol.sampler != "fps"]
    if idle:
        raise ConfigError(
            f"{' and '.join(idle)} would change nothing: sampler {protocol.sampler!r} of protocol {name or default!r} "
            f"takes {protocol.frames} frames of every video; pass sampler fps with it, or leave it out"
        )
    return protocol
