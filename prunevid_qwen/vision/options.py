"""What is asked of the vision encoder beside its features: the options of `Reading` that save its work."""

from __future__ import annotations

from dataclasses import dataclass, fields

from prunevid_qwen.config.media_reading import Reading, check_reuse
from prunevid_qwen.errors import ConfigError, quoted


@dataclass(frozen=True)
class VisionOptions:
    """Options of `Reading` under the same names, for the contexts of this room.

    Args:
        reuse_threshold: grey levels, or None.
        early_tau: cosine, or None.
        early_block: index of a block from 0, share of the depth, or None.
        reuse_identical: encode temporal positions of equal pixels once.

    Raises:
        ConfigError: as `Reading`.
    """

    reuse_threshold: float | None = None
    early_tau: float | None = None
    early_block: int | float | None = None
    reuse_identical: bool = False

    def __post_init__(self) -> None:
        check_reuse(self.reuse_threshold, self.early_tau, self.early_block)
        if not isinstance(self.reuse_identical, bool):
            raise ConfigError(f"reuse_identical is True or False, got {quoted(self.reuse_identical)}")

    @property
    def reuses(self) -> bool:
        """Whether places of a video may be copies."""
        return self.reuse_threshold is not None or self.early_tau is not None

    @property
    def copies(self) -> tuple[float | None, float | None, int | float | None]:
        """What decides which places are copies of others that differ: features of other values are not these."""
        return self.reuse_threshold, self.early_tau, self.early_block

    def __bool__(self) -> bool:
        """Whether anything is asked for."""
        return self.reuses or self.reuse_identical

    def early_index(self, blocks: int) -> int | None:
        """Return the index of the early block in an encoder of ``blocks`` blocks; None where there is none."""
        block = self.early_block
        return int(block * blocks) if isinstance(block, float) else block


def vision_options(reading: Reading) -> VisionOptions:
    """Return the options of a `Reading` that save work of the vision encoder."""
    return VisionOptions(**{each.name: getattr(reading, each.name) for each in fields(VisionOptions)})
