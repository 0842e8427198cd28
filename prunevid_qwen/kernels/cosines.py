"""Cosine distances of tokens, in fp32 and in pieces: what is held grows with tokens, never with tokens times tokens."""

from __future__ import annotations

from math import isqrt

import numpy as np
import torch
from torch import Tensor

from prunevid_qwen.kernels.products import names_its_dtypes, products_are_rounded

SAME = 1e-6
"""A distance below which two tokens have the same direction: fp32 cannot tell it from 0."""
PIECE_BYTES = 2**26
"""Bytes that one piece of tokens, or of distances, may take."""
HELD_BYTES = 2**28
"""Bytes up to which all tokens are held at length 1."""
_SOME = 256  # tokens that are compared with all others, to tell what has to be reached


def exact_dtype() -> torch.dtype:
    """Return the dtype whose products are at least as exact as fp32's: fp64 where torch may round those."""
    return torch.float64 if products_are_rounded() else torch.float32


class CosineDistances:
    """1 - cos of the tokens of one video or image; 0 for tokens of one direction, 1 from a zero vector.

    Args:
        x: [N, C] tokens of any float dtype. A copy of length 1 is held where it takes `HELD_BYTES` at most; else they
            are not copied, and pieces of them are.
    """

    def __init__(self, x: Tensor) -> None:
        self.x, self.dtype = x.detach(), exact_dtype()
        self.pieces = self._pieces(x.shape[0], 1)
        norms = [torch.linalg.vector_norm(self.x[piece].to(self.dtype), dim=1) for piece in self.pieces]
        self.norm = torch.cat(norms).clamp(min=torch.finfo(torch.float32).tiny) if norms else self.x.new_zeros(0)
        self.held: Tensor | None = None
        if x.numel() * self.dtype.itemsize <= HELD_BYTES:
            self.held = self.x.to(self.dtype, copy=True).div_(self.norm[:, None])

    def nearest_other(self) -> Tensor:
        """Distance of each token to the nearest of all others, [N] fp32; inf for a single token. Takes N * N time."""
        cosines = torch.full((self.x.shape[0],), -torch.inf, dtype=self.dtype, device=self.x.device)
        for i, one in enumerate(self.pieces):
            rows = self._unit(one)
            for other in self.pieces[i:]:
                product = _product(rows, rows if other == one else self._unit(other))
                if other == one:
                    product.fill_diagonal_(-torch.inf)
                else:
                    cosines[other] = torch.maximum(cosines[other], product.amax(dim=0))
                cosines[one] = torch.maximum(cosines[one], product.amax(dim=1))
        return _distance(cosines)

    def most_alone(self) -> int:
        """Return the index of the token that is farthest from the nearest of all others; of equals the lowest.

        The nearest of some others is no nearer than the nearest of all. So tokens are compared with those around them
        first, and with all others only as long as they may be the farthest.
        """
        if len(self.pieces) < 3:
            return int(self.nearest_other().argmax())
        parts = (self._unit(piece) for piece in self.pieces)
        cosines = torch.cat([_product(rows, rows).fill_diagonal_(-torch.inf).amax(dim=1) for rows in parts])
        some = cosines.argsort()[:_SOME]
        index, found = torch.arange(len(cosines), device=some.device), cosines[some]
        for piece in self.pieces:
            product = _product(self._unit(some), self._unit(piece))
            product.masked_fill_(some[:, None] == index[piece], -torch.inf)
            found = torch.maximum(found, product.amax(dim=1))
        reached = found.amin() + SAME  # by one of them, to rounding
        left = index[cosines <= reached]
        if 2 * len(left) > len(cosines):  # the pass over all pairs makes each product once for both
            return int(self.nearest_other().argmax())
        for step in range(1, len(self.pieces)):
            for i, piece in enumerate(self.pieces):
                own = left[(left >= piece.start) & (left < piece.stop)]
                if len(own):
                    other = self.pieces[(i + step) % len(self.pieces)]
                    found = _product(self._unit(own), self._unit(other)).amax(dim=1)
                    cosines[own] = torch.maximum(cosines[own], found)
            left = left[cosines[left] <= reached]
        return int(left[_distance(cosines[left]).argmax()])

    def first_equal(self) -> Tensor:
        """Find for each token the first one of the same direction, to the bit: [N] int64 on the CPU.

        A zero vector has no equal. Products of equal tokens are not always equal: how a sum is rounded depends on the
        shape of the product, and on the kind of the CPU.
        """
        factors = torch.arange(self.x.shape[1], device=self.x.device) * 2654435769 + 1  # Knuth's, for sums of bits
        whole = torch.int64 if self.dtype == torch.float64 else torch.int32
        bits = (self._unit(piece).add(0.0).view(whole).long() for piece in self.pieces)  # -0.0 is 0.0
        sums = torch.cat([(part * factors).sum(dim=1) for part in bits]).cpu().numpy()
        _, at, name = np.unique(sums, return_index=True, return_inverse=True)
        first = torch.from_numpy(at)[torch.from_numpy(name.reshape(-1))]
        later = (first < torch.arange(len(first), device="cpu")).nonzero()[:, 0]
        for part in torch.split(later, max(1, self.pieces[0].stop)):
            one, other = (self._unit(each.to(self.x.device)) for each in (part, first[part]))
            same = (one == other).all(dim=1) & one.any(dim=1)
            first[part] = torch.where(same.cpu(), first[part], part)
        return first

    def among(self, index: Tensor) -> Tensor:
        """Distances between some tokens, [B, B] fp32, of their indices [B]."""
        rows = self._unit(index)
        return _distance(_product(rows, rows))

    def nearest(self, index: Tensor | None, chosen: Tensor) -> Tensor:
        """Distance of some tokens, of their indices [M] or of all, to the nearest of others, [B] indices: [M] fp32."""
        columns, size = self._unit(chosen), self.x.shape[0] if index is None else len(index)
        found = [
            _product(self._unit(piece if index is None else index[piece]), columns).amax(dim=1)
            for piece in self._pieces(size, len(chosen))
        ]
        return _distance(torch.cat(found))

    def _pieces(self, size: int, columns: int) -> list[slice]:
        rows = max(1, min(isqrt(PIECE_BYTES // 8), PIECE_BYTES // (8 * max(1, self.x.shape[1], columns))))
        return [slice(i, i + rows) for i in range(0, size, rows)]

    def _unit(self, rows: Tensor | slice) -> Tensor:
        if self.held is not None:
            return self.held[rows]
        return self.x[rows].to(self.dtype) / self.norm[rows, None]


@names_its_dtypes
def _product(rows: Tensor, columns: Tensor) -> Tensor:
    return rows @ columns.T


def _distance(cosine: Tensor) -> Tensor:
    """The largest cosine has the smallest distance, to the bit: both roundings keep the order."""
    d = (1 - cosine).float()
    return d.masked_fill_(d < SAME, 0.0)


@names_its_dtypes
def nearest_by_cosine(x: Tensor, among: Tensor, most: int) -> Tensor:
    """Find for each token of each frame the most similar of some tokens of that frame; ties go to the lower index.

    Args:
        x: [F, n, C] of any float dtype.
        among: [F, n] bool: the tokens that can be found, at most ``most`` in a frame.
        most: at least 1.

    Returns:
        [F, n] int64 places in the frame; -1 in a frame where no token can be found.
    """
    frames, n, width = x.shape
    at = (~among).byte().argsort(dim=1, stable=True)[:, :most]
    there = among.gather(1, at)
    found, dtype = [], exact_dtype()
    some = max(1, PIECE_BYTES // (8 * max(1, n) * max(width, most)))
    rows = max(1, PIECE_BYTES // (8 * max(width, most)))
    for first in range(0, frames, some):
        here = slice(first, first + some)
        unit = torch.nn.functional.normalize(x[here].detach().to(dtype), dim=2)
        centres = unit.gather(1, at[here, :, None].expand(-1, -1, width)).mT
        best = [
            (part @ centres).masked_fill_(~there[here, None], -torch.inf).argmax(dim=2)
            for part in torch.split(unit, rows, dim=1)
        ]
        found.append(at[here].gather(1, torch.cat(best, dim=1)))
    whole = torch.cat(found) if found else at.new_zeros(0, n)
    return whole.masked_fill_(~there.any(dim=1, keepdim=True), -1)
