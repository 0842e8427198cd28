"""What a calibration of the vision encoder's reuse tries, and whom it asks. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.config.media_reading import check_reuse
from prunevid_qwen.config.methods import RLTOptions
from prunevid_qwen.errors import ConfigError

THRESHOLDS = (2.0, 4.0, 8.0, 16.0)
TAUS = (0.98, 0.95, 0.9, 0.8)


@dataclass(frozen=True)
class Candidates:
    """What is tried.

    Args:
        thresholds: of ``reuse_threshold``, grey levels in [0, 255].
        blocks: of ``early_block``, indices from 0; () takes two by the encoder's depth.
        taus: of ``early_tau``, in (0, 1].
        agreement: share in (0, 1] of the units left out that stage 1 has to merge.

    Raises:
        ConfigError: a value is out of its range, or there is no threshold or tau.
    """

    thresholds: tuple[float, ...] = THRESHOLDS
    blocks: tuple[int, ...] = ()
    taus: tuple[float, ...] = TAUS
    agreement: float = 0.99

    def __post_init__(self) -> None:
        if not (self.thresholds and self.taus):
            raise ConfigError("a calibration tries at least one threshold and one early_tau")
        for threshold in self.thresholds:
            check_reuse(threshold, None, None)
        for tau in self.taus:
            check_reuse(None, tau, 0)
        for block in self.blocks:
            check_reuse(None, 1.0, block)
        if not 0 < self.agreement <= 1:
            raise ConfigError(f"agreement is a share in (0, 1], got {self.agreement}")

    def blocks_of(self, depth: int) -> tuple[int, ...]:
        """Return the blocks for an encoder of ``depth`` blocks: those given, else those after 1/8 and 1/4 of it.

        Raises:
            ConfigError: a block is not there, or the last, behind which nothing is saved.
        """
        for block in self.blocks:
            if block >= depth - 1:
                raise ConfigError(
                    f"early_block {block} of a vision encoder with {depth} blocks saves nothing: pass one from 0 to "
                    f"{depth - 2}"
                )
        usual = dict.fromkeys((max(1, depth // 8) - 1, max(2, depth // 4) - 1))
        return self.blocks or tuple(block for block in usual if block < depth - 1)


def merge_tau_of(config: PruneVidConfig) -> float:
    """Return the cosine above which stage 1 of a config merges two tokens; of a config without such a threshold rlt's.

    A merger like `distinct` has none. Two tokens that `rlt` would merge are too alike for it to keep both.
    """
    return float(getattr(config.merger, "tau", RLTOptions().tau))
