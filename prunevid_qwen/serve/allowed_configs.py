"""AllowedConfigs: which pruning a request may ask for, and the config that it means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from prunevid_qwen.answers.session.video_cache import READING
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.config.option_checks import unknown
from prunevid_qwen.config.presets import PRESETS
from prunevid_qwen.config.typed import build_config
from prunevid_qwen.errors import ConfigError, UnknownOption

BUDGETS = ("keep_ratio", "cluster_ratio", "pruning_rate", "max_frames", "max_pixels")
"""Options that a request may set where the operator says nothing: how much is kept, and how much is read."""


@dataclass(frozen=True)
class AllowedConfigs:
    """What a request may choose.

    Args:
        config: the preset or file of requests that choose none.
        given: the operator's options over it; those of reading hold for every preset.
        presets: that a request may name.
        options: that a request may set, by flat or full name. A path is never among them by default.
        frames: ``max_frames`` at most.
    """

    config: str = "paper"
    given: Mapping[str, Any] = field(default_factory=dict)
    presets: tuple[str, ...] = tuple(PRESETS)
    options: tuple[str, ...] = BUDGETS
    frames: int = 256

    def chosen(self, config: str | None, options: Mapping[str, Any] | None) -> PruneVidConfig:
        """Return the config of a request.

        Args:
            config: that it names; None: the operator's.
            options: over it, as JSON has them.

        Raises:
            ConfigError: it is not offered, or a value is none of its option's.
        """
        name = self.config if config is None else config
        if name != self.config and name not in self.presets:
            raise ConfigError(unknown("config is one of", name, self.presets))
        said = dict(options or {})
        for each in said:
            if each not in self.options:
                raise UnknownOption(unknown("a request may set", each, self.options))
        typed = {each: _typed(each, value) for each, value in said.items()}
        own = {each: value for each, value in self.given.items() if name == self.config or each in READING}
        built = build_config(name, {**own, **typed})
        frames = built.flat().get("max_frames")
        if isinstance(frames, int) and frames > self.frames:
            if "max_frames" in said:
                raise ConfigError(f"max_frames is at most {self.frames} here, got {frames}")
            built = built.replace(max_frames=self.frames)
        return built.replace(verbose=False, collect_stats=True)


def _typed(name: str, value: Any) -> str:
    if value is None or isinstance(value, (dict, list)):
        raise ConfigError(f"{name} is a number or a word, got {value!r}")
    return str(value).lower() if isinstance(value, bool) else str(value)
