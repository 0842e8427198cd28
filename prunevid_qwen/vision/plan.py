"""Which places of a video are encoded, and whose token every other place copies: decided by pixels, before any block.

A *place* (``l`` of ``L``) is where one visual token of a temporal position comes from: in Qwen's towers four patches of
two frames, in CLIP's form one patch of a frame. A *unit* is a place at one of the ``T`` positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from prunevid_qwen.kernels.products import products_are_rounded, without_autocast

_CELL = 7  # pixels along a cell's side, or what is nearest to it and divides a patch
_SLACK = 1e-3  # grey levels: rounding of normalised fp32 pixels is far below it, and a step of a cell's mean above it


@dataclass(frozen=True)
class PatchForm:
    """How the numbers of a patch are arranged: channels, frames, rows, columns, in that order.

    Args:
        side: pixels along a patch.
        frames: frames that a patch spans.
        std: what one unit of a channel is worth on a scale of 0 to 1, of each channel (``image_std``).
    """

    side: int
    frames: int
    std: tuple[float, ...]

    @property
    def size(self) -> int:
        """Numbers of a patch."""
        return len(self.std) * self.frames * self.side**2

    @property
    def cells(self) -> int:
        """Cells along a side of a patch: two in a patch of 14 or 16 pixels."""
        divisors = (n for n in range(1, self.side + 1) if self.side % n == 0)
        return min(divisors, key=lambda n: abs(self.side / n - _CELL))


def change(now: Tensor, before: Tensor, form: PatchForm) -> Tensor:
    """Return by how much places differ: the mean of the worst cell of any patch and frame.

    Args:
        now: [..., P, C] normalised pixels of P patches a place.
        before: the same shape.
        form: of a patch, C numbers.

    Returns:
        [...] fp32 grey levels, 0 to 255.
    """
    gap = (now.float() - before.float()).abs_()
    kind = torch.float64 if products_are_rounded() else torch.float32
    with without_autocast(gap.device):
        means = gap.flatten(0, -2).to(kind) @ _pool(form).to(gap.device, kind)  # [places * P, frames * cells]
    return means.view(*gap.shape[:-2], -1).amax(-1).float()


@lru_cache(maxsize=16)
def _pool(form: PatchForm) -> Tensor:
    """Return [C, frames * cells] weights: a column is the mean over the channels and pixels of a cell of a frame."""
    across, side = form.cells, form.side // form.cells
    cell = torch.arange(form.side) // side
    cell = cell[:, None] * across + cell  # [rows, columns]
    cell = torch.arange(form.frames)[:, None, None] * across**2 + cell  # [frames, rows, columns]
    chosen = torch.nn.functional.one_hot(cell.flatten(), form.frames * across**2).float()
    worth = torch.tensor(form.std, dtype=torch.float32) * (255.0 / (len(form.std) * side**2))
    return (worth[:, None, None] * chosen).flatten(0, 1)


def plan_reuse(pixels: Tensor, threshold: float | None, before: Tensor | None = None, *, form: PatchForm) -> Tensor:
    """Decide which units are encoded.

    A unit is compared with the state that it would copy, not with the position before it: slow change does not drift
    away unseen. Give the pixels as they were before a cast to bfloat16, whose steps are up to a grey level.

    Args:
        pixels: [T, L, P, C] normalised pixels of one video, or of some whole positions of it.
        threshold: grey levels. A unit that differs more is encoded. None encodes all.
        before: [L, P, C] pixels of the last encoded state of each place, of the positions before these (see
            `last_encoded`). None: there are none, and the first position is encoded whole.
        form: of a patch.

    Returns:
        [T, L] bool, on the device of ``pixels``.

    Raises:
        ValueError: a patch has another size than its form.
    """
    if pixels.shape[-1] != form.size:
        raise ValueError(f"a patch of this form has {form.size} numbers, got {pixels.shape[-1]}")
    encoded = torch.ones(pixels.shape[:2], dtype=torch.bool, device=pixels.device)
    if threshold is None:
        return encoded
    last = before
    for number, now in enumerate(pixels):
        if last is None:
            last = now
            continue
        encoded[number] = change(now, last, form) > threshold + _SLACK
        last = torch.where(encoded[number][:, None, None], now, last)
    return encoded


def sources(encoded: Tensor) -> Tensor:
    """Return whose token each unit takes: the last encoded one at its place, itself where it is encoded.

    Args:
        encoded: [T, L] bool.

    Returns:
        [T, L] int64 positions; -1 where none of these positions is: the state was carried in.
    """
    time = torch.arange(len(encoded), device=encoded.device)[:, None]
    return torch.where(encoded, time, -1).cummax(dim=0).values


def last_encoded(values: Tensor, encoded: Tensor, before: Tensor | None) -> Tensor:
    """Return what stands at the last encoded state of each place after some positions.

    Args:
        values: [T, L, ...], such as the pixels that `plan_reuse` was given.
        encoded: [T, L] bool.
        before: [L, ...] what stood there before these positions; None where each place is encoded among them.

    Returns:
        [L, ...] a tensor of its own memory.
    """
    where = sources(encoded)[-1]
    found = values[where.clamp(min=0), torch.arange(len(where), device=where.device)]
    if before is None:
        return found
    return torch.where((where >= 0).view(-1, *[1] * (found.ndim - 1)), found, before)
