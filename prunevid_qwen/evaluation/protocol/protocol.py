"""Every choice of a run that is not the model's or the pruning's; what others run, by name, is in presets.yaml."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.config.option_checks import check_count, checked_names, unknown
from prunevid_qwen.errors import ConfigError, quoted
from prunevid_qwen.evaluation.datasets.dataset_layout import names
from prunevid_qwen.evaluation.protocol.harness_scorers import columns_of
from prunevid_qwen.evaluation.protocol.prompts import Prompt, prompt_of, prompts
from prunevid_qwen.evaluation.protocol.samplers import Sampled, by_rate, check_rate, linspace, mvbench_mid
from prunevid_qwen.evaluation.yaml_data import Marked, read_as

TOKEN_PIXELS = 28 * 28  # of one visual token of one frame, of Qwen2.5-VL; a temporal position has two frames

_LEAST = {"frames": 2, "min_frames": 2, "max_new_tokens": 1, **dict.fromkeys(
    ("min_pixels", "max_pixels", "total_pixels"), TOKEN_PIXELS
)}  # fmt: skip
_ONE_OF = {
    "sampler": ("mvbench_mid", "linspace", "fps"),
    "seconds_per_grid": ("range", "one"),
    "position_scheme": ("reference", "hf"),
    "subtitles": ("none", "frames"),
}

# Raise it when a sampler or the pixel rule gives other numbers than before: stored answers are then of another run.
_ARITHMETIC = 1

# Options of a pruning config that say how a video is read, which under a protocol it does; how the protocol calls them
# where the names differ; options that concern the unpruned model too.
BY_PROTOCOL = ("position_scheme", "max_frames", "video_sampling", "fps", "max_pixels", "total_pixels")
INSTEAD = {"max_frames": "frames", "video_sampling": "sampler"}
KEPT_BY_BASELINE = ("video_backend", "video_time_limit", "vision_chunk_tokens")


@checked_names("a protocol has")
@dataclass(frozen=True)
class EvalProtocol:
    """How a benchmark is asked. Ranges are checked on construction; decoding is always greedy.

    Args:
        dataset: a benchmark's name.
        prompt: whose text the questions have; see prompts.yaml.
        sampler: "mvbench_mid", "linspace" or "fps"; see `samplers`.
        frames: frames of a video; at most so many under "fps". At least 2, even but for "mvbench_mid".
        min_frames: frames at least under "fps", even, from 2 to ``frames``.
        fps: frames a second under "fps", above 0.
        min_pixels: pixels of a frame at least (smaller ones are enlarged), 784 or more: a token of Qwen2.5-VL
            (Qwen3-VL: 1,024).
        max_pixels: pixels of a frame at most, not below ``min_pixels``.
        total_pixels: pixels of a video at most, counting pairs of frames once (divided by a token's it is the visual
            tokens), or None. It gives way to ``min_pixels``: see `frame_pixels`.
        seconds_per_grid: what the model is told of time: "range" or "one"; see `Sampled.seconds_per_grid`.
        position_scheme: "reference": the M-RoPE ids that Qwen2.5-VL was trained with; "hf": those of the installed
            transformers, which differ between its releases.
        max_new_tokens: of an answer, at least 1.
        subtitles: "none", or "frames": those at the moments of the frames taken.

    Raises:
        ConfigError: a value outside its range, or a prompt that the data set or the subtitles do not go with.
    """

    dataset: str
    prompt: str
    sampler: str = "linspace"
    frames: int = 32
    min_frames: int = 4
    fps: float = 2.0
    min_pixels: int = 128 * TOKEN_PIXELS
    max_pixels: int = 768 * TOKEN_PIXELS
    total_pixels: int | None = 24576 * TOKEN_PIXELS
    seconds_per_grid: str = "range"
    position_scheme: str = "reference"
    max_new_tokens: int = 16
    subtitles: str = "none"

    def __post_init__(self) -> None:
        text = self.text
        for name, allowed in _ONE_OF.items():
            if getattr(self, name) not in allowed:
                raise ConfigError(unknown(f"{name} is one of", getattr(self, name), allowed))
        for name, least in _LEAST.items():
            if name != "total_pixels" or self.total_pixels is not None:
                check_count(name, getattr(self, name), least)
        check_rate("fps", self.fps)
        object.__setattr__(self, "fps", float(self.fps))  # 2 and 2.0 are one run
        if self.max_pixels < self.min_pixels:
            raise ConfigError(
                f"max_pixels={self.max_pixels} is below min_pixels={self.min_pixels}: no frame can satisfy both"
            )
        for name in {"mvbench_mid": (), "linspace": ("frames",), "fps": ("frames", "min_frames")}[self.sampler]:
            if (value := getattr(self, name)) % 2:
                raise ConfigError(f"{name} is even: a temporal position is two frames; got {value}: pass {value + 1}")
        if self.sampler == "fps" and self.frames < self.min_frames:
            raise ConfigError(f"frames={self.frames} is below min_frames={self.min_frames}: pass more frames")
        if self.subtitles != "none" and text.subtitles_lead is None:
            shows = [each.name for each in prompts() if each.subtitles_lead and each.is_for(self.dataset)]
            others = f"or prompt {' or '.join(shows)}" if shows else f"{self.dataset} has no prompt with them"
            raise ConfigError(f"prompt {self.prompt!r} shows no subtitles: pass subtitles='none'; {others}")
        if self.subtitles == "none" and text.without_subtitles:
            raise ConfigError(f"prompt {self.prompt!r} is the one with subtitles: pass subtitles='frames' with it")

    @property
    def text(self) -> Prompt:
        """The prompt itself."""
        return prompt_of(self.prompt, self.dataset)

    def sample(
        self, count: int, fps: float, start: float | None = None, end: float | None = None, first_number: int = 0
    ) -> Sampled:
        """Choose the frames of a video; `samplers` has the arguments, of which "mvbench_mid" alone reads the last."""
        if self.sampler == "mvbench_mid":
            return mvbench_mid(count, fps, self.frames, start, end, first_number)
        if self.sampler == "linspace":
            return linspace(count, fps, self.frames, start, end)
        return by_rate(count, fps, self.fps, self.min_frames, self.frames, start, end)

    def frame_pixels(self, frames: int) -> int:
        """Return the pixels that each of ``frames`` frames (at least 1) may have at most, as qwen-vl-utils 0.0.14 does.

        Where the video's share is small it is 1.05 * ``min_pixels`` all the same: many frames then exceed
        ``total_pixels``.
        """
        if self.total_pixels is None:
            return self.max_pixels
        return min(self.max_pixels, max(int(self.total_pixels / frames * 2), int(self.min_pixels * 1.05)))

    def replace(self, **changes: Any) -> EvalProtocol:
        """Return a copy with some choices changed."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Return every choice by name, ready for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, choices: Mapping[str, Any]) -> EvalProtocol:
        """Build from names and values; raises as the constructor does."""
        if missing := [name for name in ("dataset", "prompt") if name not in choices]:
            raise ConfigError(f"a protocol needs {' and '.join(missing)}: got {', '.join(choices) or 'nothing'}")
        return cls(**choices)

    def identity(self) -> dict[str, Any]:
        """Return what it is that could change an answer: every choice, every string of the prompt, the arithmetic."""
        return {"protocol": self.to_dict(), "prompt": self.text.to_dict(), "arithmetic": _ARITHMETIC}


def under(protocol: EvalProtocol, name: str, config: PruneVidConfig) -> PruneVidConfig:
    """Return a pruning config as a protocol uses it; one that says how videos are read is a `ConfigError`."""
    plain = PruneVidConfig()
    for option in BY_PROTOCOL:
        if getattr(config, option) not in (getattr(plain, option), getattr(protocol, option, None)):
            raise ConfigError(
                f"config {name!r} sets {option}={getattr(config, option)!r}, but how media are read is the protocol's "
                f"choice: pass {INSTEAD.get(option, option)} beside it, and leave {option} out of the config"
            )
    unread = {option: getattr(plain, option) for option in BY_PROTOCOL}
    return config.replace(**{**unread, "position_scheme": protocol.position_scheme})


def presets() -> Mapping[str, Mapping[str, EvalProtocol]]:
    """Return each preset by name: data set -> its protocol; a `ConfigError` says where the file is wrong."""
    return _presets(names())


@cache
def _presets(datasets: tuple[str, ...]) -> Mapping[str, Mapping[str, EvalProtocol]]:
    found = read_as(Path(__file__).with_name("presets.yaml"), dict[str, dict[str, Marked]])
    made: dict[str, dict[str, EvalProtocol]] = {preset: {} for preset in found}
    for preset, choices in found.items():
        plain = {name: given.plain() for name, given in choices.items()}
        single = plain.pop("for", {})
        asked = [each for each in prompts() if each.name == plain["prompt"]]
        for dataset in datasets:
            if plain.get("dataset", dataset) == dataset and any(prompt.is_for(dataset) for prompt in asked):
                try:
                    own = {**plain, "dataset": dataset, **single.get(dataset, {})}
                    made[preset][dataset] = EvalProtocol.from_dict(own)
                except ConfigError as error:
                    raise choices["prompt"].error(error) from error
    return made


def presets_for(dataset: str) -> tuple[str, ...]:
    """Return the names of the presets that a data set can be asked under; raises as `prompt_of`."""
    prompt_of("letter", dataset)
    return tuple(name for name, fits in presets().items() if dataset in fits)


def protocol_named(name: str, dataset: str, **changes: Any) -> EvalProtocol:
    """Return a preset for a data set, with some choices changed; a `ConfigError` names what there is."""
    if name not in presets():
        raise ConfigError(unknown("a protocol is one of", name, presets()))
    if dataset not in presets()[name]:
        raise ConfigError(f"protocol {quoted(name)} is not for {dataset}: pass {', '.join(presets_for(dataset))}")
    return presets()[name][dataset].replace(**changes)


def protocol_for(dataset: str, name: str | None = None, **changes: Any) -> EvalProtocol:
    """Return a preset for a data set, lmms-eval's where nobody names one: most published comparisons are under it.

    Raises as `protocol_named`, for a choice that the sampler does not look at, and for a scorer that there is none of.
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
