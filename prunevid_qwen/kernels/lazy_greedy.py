"""The greedy step of a determinantal point process on the host: only points that may be next are brought up to date."""

from __future__ import annotations

from collections import deque

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from prunevid_qwen.kernels.eager_greedy import EXHAUSTED, NEAR, eager_greedy

CANDIDATES = 128
"""Points of which the similarities to one another are known: among them choices are made."""
SURE = 32
"""Points at the head of the order that have to be up to date before choices are made."""
_LOOKED_AT = 256  # points that are brought up to date at least, where some have to be
_ROUNDS, _AT_LEAST = 16, 24  # after so many rounds with fewer choices in all, all points are looked at for each choice

Numbers = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]


def lazy_greedy(gain: Numbers, unit: Tensor, count: int) -> list[int]:
    """Choose what `eager_greedy` chooses.

    A point's variance only falls, so an old gain is a bound of the present one. The points with the largest bounds are
    brought up to date by one product, and choices are made among them for as long as the best of them is better than
    every bound outside.

    Args:
        gain: [N], logarithm of the squared quality.
        unit: [N, D] fp64 of length 1, or 0. It is written over.
        count: points chosen, in [1, N].

    Returns:
        ``count`` indices in the order of choice.
    """
    if not (np.isfinite(gain).all() and bool(unit.isfinite().all())):  # nothing bounds what is no number
        ones = torch.ones(1, len(gain), dtype=torch.float64, device="cpu")
        return eager_greedy(torch.from_numpy(gain)[None], unit[None], ones, count)[0].tolist()
    points, chosen, many = _Points(gain, unit, count), list[int](), deque[int](maxlen=_ROUNDS)
    while len(chosen) < count:
        if len(many) == _ROUNDS and sum(many) < _AT_LEAST:
            return chosen + points.eagerly(count - len(chosen))
        made = points.choices(points.candidates(), count - len(chosen))
        if not made:
            made = points.choices(points.candidates(True), count - len(chosen))
        chosen += made
        many.append(len(made))
    return chosen


class _Points:
    """The points less what those chosen span, each as it was when it was last looked at."""

    def __init__(self, gain: Numbers, unit: Tensor, count: int) -> None:
        n, width = unit.shape
        self.gain = gain
        self.rest = unit
        self.variance = np.ones(n)  # given the first ``known`` vectors of the basis
        self.bound = gain.copy()  # -inf once chosen
        self.known = np.zeros(n, dtype=np.int64)
        self.clear = np.zeros(n, dtype=np.int64)  # the vectors of the basis that are taken off ``rest``
        self.fixed = ~unit.any(dim=1).numpy()  # their gain is what it will be: like nothing, or exhausted
        self.basis = unit.new_empty(min(n, width, count), width)
        self.filled = 0
        self.place = np.full(n, -1, dtype=np.int64)  # among the candidates of this round

    def candidates(self, all_of_them: bool = False) -> Index:
        """Bring up to date those that may be best, and return the best of them, in order of their indices.

        Args:
            all_of_them: bring all up to date.
        """
        left, most = int(np.count_nonzero(self.bound > -np.inf)), _LOOKED_AT
        while True:
            order = np.argsort(-self.bound, kind="stable")[:left]
            if self._exact(order if all_of_them else order[:SURE]).all():
                break
            head = order if all_of_them else order[:most]
            self._look(head[~self._exact(head)])
            most *= 2
        first = order[:CANDIDATES]
        level = self.bound[order[0]] - NEAR
        first = np.union1d(first, (self.bound >= level).argmax())
        inside: Index = first[self._exact(first) & ~self.fixed[first]]
        return inside

    def choices(self, inside: Index, most: int) -> list[int]:
        """Choose among some points, and among those whose gain is fixed, while no other may be better.

        Args:
            inside: [M] rising, points that are up to date and not fixed.
            most: choices.
        """
        self._clear(inside)
        at = torch.from_numpy(inside)
        own = self.rest.index_select(0, at)
        similar = own @ own.T
        rows = own.new_empty(len(inside), len(inside))  # of the Cholesky factor, given the basis
        gain, variance = self.gain[inside], self.variance[inside]
        sure = np.where(self.fixed, self.bound, -np.inf)
        outside = np.where(self.fixed, -np.inf, self.bound)
        sure[inside], outside[inside] = self.bound[inside], -np.inf
        self.place[inside] = np.arange(len(inside))
        beyond, chosen, added = outside.max(), list[int](), list[int]()
        while len(chosen) < most:
            top = sure.max()
            best = int((sure >= top - NEAR).argmax())
            if beyond >= top - NEAR and (beyond > top or int((outside >= top - NEAR).argmax()) < best):
                break
            chosen.append(best)
            sure[best] = self.bound[best] = -np.inf
            here = int(self.place[best])
            if here < 0:
                continue
            gain[here] = -np.inf
            if variance[here] <= EXHAUSTED:
                continue
            step = len(added)
            row = similar[here] - rows[:step, here] @ rows[:step] if step else similar[here]
            rows[step] = row / variance[here] ** 0.5
            added.append(best)
            variance -= rows[step].numpy() ** 2
            sure[inside] = gain + np.log(np.maximum(variance, EXHAUSTED))
        self.place[inside] = -1
        if added:
            self._extend(np.array(added))
            self._note(inside, variance)
        return chosen

    def eagerly(self, count: int) -> list[int]:
        """Choose so many of those that are left, all of which are brought up to date after each choice."""
        left = np.flatnonzero(self.bound > -np.inf)
        self._look(left[~self._exact(left)])
        self._clear(left)
        gain, variance = (torch.from_numpy(x[left])[None] for x in (self.gain, self.variance))
        rest = self.rest.index_select(0, torch.from_numpy(left))
        order = eager_greedy(gain, rest[None], variance, count)[0].numpy()
        return [int(i) for i in left[order]]

    def _exact(self, index: Index) -> npt.NDArray[np.bool_]:
        exact: npt.NDArray[np.bool_] = self.fixed[index] | (self.known[index] == self.filled)
        return exact

    def _look(self, index: Index) -> None:
        """Bring the variance of some points up to date."""
        for known in np.unique(self.known[index]):
            own = index[self.known[index] == known]
            along = self.rest.index_select(0, torch.from_numpy(own)) @ self.basis[known : self.filled].T
            self._note(own, self.variance[own] - along.square_().sum(dim=1).numpy())

    def _note(self, index: Index, variance: Numbers) -> None:
        """Write the variance of some points, given the whole basis."""
        self.variance[index], self.known[index] = variance, self.filled
        self.fixed[index] |= variance <= EXHAUSTED
        gone = self.bound[index] == -np.inf
        self.bound[index] = np.where(gone, -np.inf, self.gain[index] + np.log(np.maximum(variance, EXHAUSTED)))

    def _clear(self, index: Index) -> None:
        """Take all vectors of the basis off some points."""
        for clear in np.unique(self.clear[index]):
            if clear == self.filled:
                continue
            own = torch.from_numpy(index[self.clear[index] == clear])
            rest, basis = self.rest.index_select(0, own), self.basis[clear : self.filled]
            self.rest.index_copy_(0, own, torch.addmm(rest, rest @ basis.T, basis, alpha=-1))
        self.clear[index] = self.filled

    def _extend(self, chosen: Index) -> None:
        """Let the basis span some more points, which are clear of it."""
        new = self.rest.index_select(0, torch.from_numpy(chosen))
        for _ in range(2):  # what rounding leaves of one in the other is taken off once more
            new = torch.nn.functional.normalize(new, dim=1)
            new = torch.linalg.solve_triangular(torch.linalg.cholesky(new @ new.T), new, upper=False)
        self.basis[self.filled : self.filled + len(new)] = new
        self.filled += len(new)
