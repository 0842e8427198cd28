"""What a pruning config may say where a protocol says how videos are read."""

from __future__ import annotations

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.evaluation.protocol.protocol import Protocol

BY_PROTOCOL = ("position_scheme", "max_frames", "video_sampling", "fps", "max_pixels", "total_pixels")
"""Options of a config that say how a video is read, which under a protocol it does."""

KEPT_BY_BASELINE = ("video_backend", "video_time_limit", "vision_chunk_tokens")
"""Options that concern the unpruned model too."""

INSTEAD = {"max_frames": "frames", "video_sampling": "sampler"}
"""How a protocol calls them, where the names differ."""


def under(protocol: Protocol, name: str, config: PruneVidConfig) -> PruneVidConfig:
    """Return a config as a run under a protocol uses it.

    Args:
        protocol: of the run.
        name: of the config, for the error.
        config: what is pruned.

    Raises:
        ConfigError: it says how videos are read, and would not be heeded.
    """
    plain = PruneVidConfig()
    for option in BY_PROTOCOL:
        if getattr(config, option) not in (getattr(plain, option), getattr(protocol, option, None)):
            raise ConfigError(
                f"config {name!r} sets {option}={getattr(config, option)!r}, but how media are read is the protocol's "
                f"choice: pass {INSTEAD.get(option, option)} beside it, and leave {option} out of the config"
            )
    unread = {option: getattr(plain, option) for option in BY_PROTOCOL}
    return config.replace(**{**unread, "position_scheme": protocol.position_scheme})
