"""Compaction of a cache: of many layers' keys and values only some entries are kept.

`reference` is the law: a gather. `compact` copies whole entries, on a GPU for all tensors in one launch
(`cache_compaction_triton`).

The kept entries go to fresh memory. Moving them to the left inside the old memory would save that while it lasts, but
a transformers DynamicLayer holds a tensor, not a buffer: a shorter view of the old memory would keep all of it alive
until the layer's next `torch.cat`, and programs that run at once would have to wait for each other's reads. `batches`
bounds the extra memory instead: what one batch lets go of, the next one can use.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from prunevid_qwen.kernels.launch import wants_triton, where_of

FRESH_BYTES = 2**28
"""Bytes of new memory that one batch may take while the old memory is still there."""


def reference(tensors: Sequence[Tensor], index: Tensor, past: int) -> list[Tensor]:
    """Select entries of keys or values (PruneVid, arXiv 2412.16117, sec. 3.4).

    Args:
        tensors: each [B, H, past + S, d] of any dtype and strides; on one device, H, d and dtypes may differ.
        index: [B, K] int64 in [0, S) into the entries after the first ``past``, on the same device.
        past: entries that stay, before those selected.

    Returns:
        For each tensor a new one [B, H, past + K, d] that shares no memory with it.

    Raises:
        ValueError: a tensor is not [B, H, >= past, d].
    """
    _check(tensors, index, past)
    out = []
    for held in tensors:
        at = index[:, None, :, None].expand(-1, held.shape[1], -1, held.shape[3])
        out.append(torch.cat([held[:, :, :past], held[:, :, past:].gather(2, at)], dim=2))
    return out


def compact(tensors: Sequence[Tensor], index: Tensor, past: int) -> list[Tensor]:
    """Compute `reference`, the same bits; same arguments, no host sync on a GPU. Gradients pass, by the law itself."""
    _check(tensors, index, past)
    if torch.is_grad_enabled() and any(held.requires_grad for held in tensors):
        return reference(tensors, index, past)
    if tensors and wants_triton(tensors[0]):
        from prunevid_qwen.kernels import cache_compaction_triton

        with where_of(tensors[0]):
            return cache_compaction_triton.compact(tensors, index, past)
    if past:
        stays = torch.arange(past, device=index.device).expand(index.shape[0], -1)
        index = torch.cat([stays, index + past], dim=1)
    out = []
    for held in tensors:
        new = held.new_empty(*held.shape[:2], index.shape[1], held.shape[3])
        for b, own in enumerate(held):
            torch.index_select(own, 1, index[b], out=new[b])
        out.append(new)
    return out


def batches(tensors: Sequence[Tensor], entries: int) -> Iterator[slice]:
    """Cut ``tensors`` into runs: give each to `compact` and let go of its old tensors before the next.

    The compacted tensors of a run, of ``entries`` entries each, take at most FRESH_BYTES, where one launch serves them
    all; without such a kernel, and where one alone takes more, each is a run.
    """
    limit = FRESH_BYTES if tensors and wants_triton(tensors[0]) else 0
    start = taken = 0
    for i, held in enumerate(tensors):
        new = held.shape[0] * held.shape[1] * entries * held.shape[3] * held.element_size()
        if i > start and taken + new > limit:
            yield slice(start, i)
            start, taken = i, 0
        taken += new
    if tensors:
        yield slice(start, len(tensors))


def _check(tensors: Sequence[Tensor], index: Tensor, past: int) -> None:
    for held in tensors:
        if held.dim() != 4 or held.shape[0] != index.shape[0] or not 0 <= past <= held.shape[2]:
            raise ValueError(
                f"each tensor is [B, H, past + S, d]; with index {list(index.shape)} and past {past} "
                f"got {list(held.shape)}"
            )
