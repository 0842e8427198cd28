"""Means of the members of each group of tokens, the same bit for bit in every run.

`reference` is the law. `cluster_mean` gives the same numbers in one pass of `embedding_bag` without a copy of the
members; not by ``index_add_``, whose order of summation is undefined on CUDA.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from prunevid_qwen.kernels.launch import wants_triton, where_of


def reference(x: Tensor, target: Tensor, n_out: int) -> Tensor:
    """Average the members of each group in fp32, in token order.

    Args:
        x: [n_in, ...] of any dtype.
        target: [n_in] int64 in [-1, n_out): the token's group; -1 is in none.
        n_out: groups.

    Returns:
        [n_out, ...] in the dtype of ``x``; 0 for a group without members. A group of one comes out as it went in (fp64
        as fp32).
    """
    out = torch.zeros(n_out, *x.shape[1:], dtype=torch.float32, device=x.device)
    for row, group in zip(x.float(), target.tolist(), strict=True):
        if group >= 0:
            out[group] += row
    sizes = (target[:, None] == torch.arange(n_out, device=x.device)).sum(dim=0).clamp(min=1)
    return (out / sizes.view(-1, *[1] * (x.dim() - 1))).to(x.dtype)


def cluster_mean(x: Tensor, target: Tensor, n_out: int) -> Tensor:
    """Compute `reference` in one pass: same arguments, same result to rounding. It does not wait for a GPU.

    Gradients pass: where ``x`` asks for them torch's path runs on a GPU too.
    """
    if wants_triton(x) and not (torch.is_grad_enabled() and x.requires_grad):
        from prunevid_qwen.kernels import cluster_mean_triton

        with where_of(x):
            return cluster_mean_triton.cluster_mean(x, target, n_out)
    if x.device.type == "cpu":
        return _cpu(x, target, n_out)
    if not x.is_floating_point() or x.dtype == torch.float64:
        return cluster_mean(x.float(), target, n_out).to(x.dtype)
    bag = torch.where(target < 0, n_out, target)  # what is dropped makes a last bag: its size is not known here
    sizes = torch.zeros(n_out + 1, dtype=torch.long, device=x.device).scatter_add_(0, bag, torch.ones_like(bag))
    member = bag.argsort(stable=True)
    first = sizes.cumsum(0) - sizes
    # bags of a type narrower than fp32 accumulate in fp32 by themselves
    mean = F.embedding_bag(member, x.reshape(x.shape[0], -1), first, mode="mean")
    return mean[:n_out].view(n_out, *x.shape[1:])


def weighted_sum(x: Tensor, source: Tensor, group: Tensor, weight: Tensor, n_out: int) -> Tensor:
    """Add up tokens by weights in fp32, in the order of the entries; the same bit for bit in every run.

    Args:
        x: [n_in, ...] floating-point.
        source: [E] int64 in [0, n_in): the token of each entry.
        group: [E] int64 in [0, n_out): what it goes into.
        weight: [E] fp32.
        n_out: groups.

    Returns:
        [n_out, ...] in the dtype of ``x``; 0 for a group without entries. Gradients pass, the host does not wait.
    """
    sizes = torch.zeros(n_out, dtype=torch.long, device=x.device).scatter_add_(0, group, torch.ones_like(group))
    order = group.argsort(stable=True)
    flat, first = x.reshape(x.shape[0], -1).float(), sizes.cumsum(0) - sizes
    out = F.embedding_bag(source[order], flat, first, mode="sum", per_sample_weights=weight[order])
    return out.view(n_out, *x.shape[1:]).to(x.dtype)


def _cpu(x: Tensor, target: Tensor, n_out: int) -> Tensor:
    flat = x.reshape(x.shape[0], -1).float()
    member = target.argsort(stable=True)[int((target < 0).sum()) :]
    sizes = torch.bincount(target[member], minlength=n_out)
    weight = sizes.float().reciprocal().repeat_interleave(sizes)  # spares a second pass over the result
    first = sizes.cumsum(0) - sizes
    mean = F.embedding_bag(member, flat, first, mode="sum", per_sample_weights=weight)
    return mean.view(n_out, *x.shape[1:]).to(x.dtype)
