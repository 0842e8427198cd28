"""One video on its way through the tower: what its next positions may copy, and how much of it was encoded."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import torch
from torch import Tensor

from prunevid_qwen.vision.lending import Lent
from prunevid_qwen.vision.plan import PatchForm, last_encoded, plan_reuse


@dataclass
class State:
    """The last encoded state of each of the L places of a video. Its memory does not grow with the video.

    Args:
        lent: keys and values of each block, for the patches of the places.
        tokens: [L, D] of each merger.
        taps: [L, unit, C] of each block and kind that is looked into.
        early: [L, unit * width] fp32, of length 1: states after the early block of what went on there.
        number: [L] int64 which unit of the whole video, in raster order, each state is.
    """

    lent: dict[int, Lent] = field(default_factory=dict)
    tokens: dict[int, Tensor] = field(default_factory=dict)
    taps: dict[tuple[int, str], Tensor] = field(default_factory=dict)
    early: Tensor | None = None
    number: Tensor | None = None


class Carried:
    """A video that is encoded in one or several calls of the tower; made anew where it begins anew.

    Args:
        encoded: [T, L] bool, the plan of its next positions; see `give`.
        more: positions may follow these.
        image: it is an image, or a single position: nothing to copy from.
    """

    def __init__(self, encoded: Tensor | None = None, more: bool = False, image: bool = False) -> None:
        self.image = image
        self.state: State | None = None
        self.positions = 0  # that were encoded
        self._planned: Tensor | None = None
        self._more = False
        if encoded is not None:
            self.give(encoded, more)

    def give(self, encoded: Tensor, more: bool) -> None:
        """Note the plan of the positions that come next.

        Args:
            encoded: [T, L] bool, of `plan_reuse`.
            more: positions may follow these: what they may copy is kept.
        """
        self._planned, self._more = encoded.cpu(), more

    def take(self, positions: int) -> tuple[Tensor, bool]:
        """Return the plan of the next positions, [T, L] bool on the CPU, and whether more may follow.

        Raises:
            ValueError: there is no plan of so many.
        """
        if self._planned is None or len(self._planned) < positions:
            planned = 0 if self._planned is None else len(self._planned)
            raise ValueError(f"{positions} positions of a video came to the vision encoder, but {planned} are planned")
        now, self._planned = self._planned[:positions], self._planned[positions:]
        return now, self._more or len(self._planned) > 0

    @property
    def done(self) -> bool:
        """Whether each position that was planned has come."""
        return self._planned is None or len(self._planned) == 0


class PixelPlanner:
    """Plans the chunks of one video, which come one after the other, by the pixels before a cast.

    Args:
        threshold: grey levels, or None.
        form: of a patch.
        unit: patches of a place.
    """

    def __init__(self, threshold: float | None, form: PatchForm, unit: int) -> None:
        self._threshold, self._form, self._unit = threshold, form, unit
        self._last: Tensor | None = None

    def begin(self) -> None:
        """Begin a video, or begin it anew."""
        self._last = None

    def plan(self, pixels: Tensor, positions: int) -> Tensor:
        """Return which units of some positions are encoded, [T, L] bool.

        Args:
            pixels: [patches, C] fp32.
            positions: T, of these pixels.
        """
        units = pixels.view(positions, -1, self._unit, pixels.shape[-1])
        encoded = plan_reuse(units, self._threshold, self._last, form=self._form)
        if self._threshold is not None:
            self._last = last_encoded(units, encoded, self._last)
        return encoded


@dataclass
class _Sums(threading.local):
    units: int = 0
    entered: int = 0
    encoded: int = 0


class Count:
    """How many units of videos came to the tower, entered its first block, and were encoded to the end; per thread."""

    def __init__(self) -> None:
        self._sums = _Sums()

    def add(self, units: int, entered: int, encoded: int) -> None:
        """Add units."""
        self._sums.units += units
        self._sums.entered += entered
        self._sums.encoded += encoded

    def take(self) -> tuple[int, int, int]:
        """Return units, entered and encoded of this thread since the last call, and begin anew."""
        sums = self._sums
        found = sums.units, sums.entered, sums.encoded
        sums.units = sums.entered = sums.encoded = 0
        return found


def itself(positions: int, cells: int, first: int, blocks: int) -> Tensor:
    """Return the source of units that are all encoded, see `source_of`: [N, 2] int64.

    Args:
        positions: of these units.
        cells: of a position.
        first: position of the first of them in its video.
        blocks: of the tower.
    """
    number = torch.arange(positions * cells) + first * cells
    return torch.stack([number, torch.full_like(number, blocks)], dim=1)
