"""The greedy set of a determinantal point process, for many groups of points at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize
from torch.nn.utils.rnn import pad_sequence

from prunevid_qwen.kernels.eager_greedy import eager_greedy, made_at_once
from prunevid_qwen.kernels.lazy_greedy import lazy_greedy
from prunevid_qwen.kernels.products import names_its_dtypes

_LEAST = -1e4  # stands for the logarithm of a quality of 0, so that such points still rank below all others
_PADDING = 4 * _LEAST  # the gain of padding, below that of all points
_BLOCK_BYTES = 2**28  # of groups that are chosen from side by side
_FEW = 256  # points of a group, up to which a CPU too brings all of them up to date after each choice


@names_its_dtypes
def greedy_dpp(log_quality: Tensor, features: Tensor, count: int, valid: Tensor | None = None) -> Tensor:
    """Choose a set of large determinant of L_ij = q_i cos(x_i, x_j) q_j, one best point after the other.

    Kulesza and Taskar (arXiv 1207.6083) for the kernel of quality and similarity, Chen, Zhang and Zhou (arXiv
    1709.05135) for the greedy step, which extends a Cholesky factor by one row.

    Args:
        log_quality: [N], or [B, N] for B groups, natural logarithm of q.
        features: [N, D] or [B, N, D]; directions count, lengths do not. A zero vector is like nothing.
        count: points chosen of each group, in [1, N].
        valid: [B, N] bool, False for padding, which is chosen after all points of its group. None: all are points.

    Returns:
        [count] or [B, count] int64 in the order of choice. Each is the lowest index of those whose gain, the factor by
        which the determinant grows, is at most 16 units in the last place of fp32 below the best. Points that add
        nothing any more (the rank of the kernel is used up) follow by quality. Computed in fp64; beside the features, a
        small group takes N * count and N * N numbers. A large one takes D * D at most: what was chosen spans no more.
    """
    if log_quality.dim() == 1:
        return greedy_dpp(log_quality[None], features[None], count)[0]
    batch, n, width = features.shape
    gain = 2 * log_quality.double().clamp(min=_LEAST)
    if features.device.type == "cpu" and n > _FEW:
        return _cpu(gain, features, count, valid)
    if valid is not None:
        gain = gain.masked_fill(~valid, _PADDING)
    beside = n * (count + n) if made_at_once(n) else width * min(count, width)
    step = max(1, _BLOCK_BYTES // (8 * (n * width + beside)))
    parts = [slice(at, at + step) for at in range(0, batch, step)]
    return torch.cat([
        eager_greedy(gain[part], normalize(features[part].double(), dim=2), torch.ones_like(gain[part]), count)
        for part in parts
    ])  # fmt: skip


def _cpu(gain: Tensor, features: Tensor, count: int, valid: Tensor | None) -> Tensor:
    """Choose from one group after the other: the host decides what has to be computed."""
    gain, features = (x.detach().as_subclass(Tensor) for x in (gain, features))
    chosen = torch.empty(len(gain), count, dtype=torch.long, device="cpu")
    for group, (own, points) in enumerate(zip(gain, features, strict=True)):
        if valid is not None:
            order = valid[group].as_subclass(Tensor).byte().argsort(descending=True, stable=True)  # padding follows
            there = order[: int(valid[group].sum())]
            own, points, chosen[group] = own[there], points[there], order[:count]
        found = lazy_greedy(own.numpy(), normalize(points.double(), dim=1), min(count, len(own)))
        at = torch.tensor(found, dtype=torch.long, device="cpu")
        chosen[group, : len(found)] = at if valid is None else there[at]
    return chosen


def greedy_sets(
    log_quality: Sequence[Tensor], features: Sequence[Tensor], counts: Sequence[int], centred: bool = False
) -> list[Tensor]:
    """Choose from groups of sizes of their own: what `greedy_dpp` chooses of each.

    A GPU chooses from groups of about one size in one sequence of launches.

    Args:
        log_quality: of each group, [n].
        features: of each group, [n, D].
        counts: of each group, points chosen, in [1, n].
        centred: take the mean of each group off its features.

    Returns:
        Of each group, [count] int64 in the order of choice.
    """

    def points(i: int) -> Tensor:
        return features[i].double() - features[i].double().mean(dim=0) if centred else features[i]

    sizes, found = [len(own) for own in log_quality], dict[int, Tensor]()
    most = 0 if features[0].device.type == "cpu" else _BLOCK_BYTES // (8 * features[0].shape[1])
    for some in _alike(sizes, most):
        if len(some) == 1:
            found[some[0]] = greedy_dpp(log_quality[some[0]], points(some[0]), counts[some[0]])
            continue
        quality = pad_sequence([log_quality[i] for i in some], batch_first=True)
        ends = torch.tensor([sizes[i] for i in some], device="cpu")[:, None]
        valid = torch.arange(quality.shape[1], device="cpu") < ends
        valid = valid.to(quality.device, non_blocking=quality.is_cuda)
        padded = pad_sequence([points(i) for i in some], batch_first=True)
        chosen = greedy_dpp(quality, padded, max(counts[i] for i in some), valid)
        for i, own in zip(some, chosen, strict=True):
            found[i] = own[: counts[i]]
    return [found[i] for i in range(len(sizes))]


def _alike(sizes: Sequence[int], most: int) -> list[list[int]]:
    """Put groups together: the largest at most twice as large as the smallest, and ``most`` points with padding."""
    together: list[list[int]] = []
    for i in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        largest = sizes[together[-1][0]] if together else 0
        if together and largest <= 2 * sizes[i] and largest * (len(together[-1]) + 1) <= most:
            together[-1].append(i)
        else:
            together.append([i])
    return together
