"""How much the question attends to each visual token, without ever holding Q x S x H at once.

`reference` is the law: the whole softmax in fp32. `question_attention` gives the same numbers, on a CPU from chunks of
question rows, on a GPU from tiles that stay on the chip (`question_attention_triton`).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce

import torch
from torch import Tensor

from prunevid_qwen.kernels.launch import wants_triton, where_of
from prunevid_qwen.kernels.products import names_its_dtypes

CHUNK_BYTES = 32 * 2**20  # of one fp32 [H, rows, S] block of logits; two are alive at a time
LEAST_GRAVITY = 1 / 32
"""Smallest attention by position alone that a probability is divided by: far apart it reaches zero and below."""

Gravity = tuple[Tensor, Tensor]
"""[Q, d] and [N, d] fp32: an all-ones query of each question token and an all-ones key of each column, both rotated."""


def reference(
    q: Tensor,
    k: Tensor,
    columns: Tensor,
    rows_at: Tensor | None,
    scale: float,
    heads: str = "max",
    rows: str = "max",
    top_heads: int | None = None,
    heard: Tensor | None = None,
    gravity: Gravity | None = None,
) -> Tensor:
    """Score visual tokens by the attention that question tokens pay them (PruneVid, arXiv 2412.16117, sec. 3.3).

    Args:
        q: [H, Q, d] queries of the question's tokens, in order.
        k: [Hkv, S, d] keys of the whole sequence; query head h reads key head h // (H // Hkv).
        columns: [N] int64 in [0, S): the visual tokens.
        rows_at: [Q] int64 place of each question token in the sequence for the causal rule, None for no rule.
        scale: factor on the logits.
        heads: "max" or "mean" of the probabilities over heads, taken first.
        rows: "max", "mean" or "last" over question tokens; "each" for no reduction.
        top_heads: in [1, H]: only so many heads, those with the largest sum of probability over the rows that are asked
            for and the columns, of equal ones the first; None for all.
        heard: [Q] bool: rows that count, at least one. A row that does not has no probability and no share of a mean.
            None for all.
        gravity: each probability is divided by the scaled product of these two, which is at least `LEAST_GRAVITY`; None
            for no division.

    Returns:
        [N] fp32 natural logarithm of the reduced probability, [Q, N] for each row.

    Raises:
        ValueError: there is no question token, H is no multiple of Hkv, or a reduction is unknown.
    """
    _check(q, k, heads, rows, top_heads)
    if rows == "last":
        q, rows_at = q[:, -1:], None if rows_at is None else rows_at[-1:]
    keys = k.float().repeat_interleave(q.shape[0] // k.shape[0], dim=0)
    logits = q.float() @ keys.transpose(1, 2) * scale  # [H, Q, S]
    if rows_at is not None:
        future = torch.arange(k.shape[1], device=k.device) > rows_at[:, None]
        logits = logits.masked_fill(future, float("-inf"))
    if gravity is not None and rows == "last":
        gravity = gravity[0][-1:], gravity[1]
    if heard is not None and rows == "last":
        heard = heard[-1:]
    pull = None if gravity is None else gravity[0].float() @ gravity[1].float().T * scale
    return reduced(logits.softmax(-1)[..., columns], heads, rows, top_heads, heard, pull).log()


def reduced(
    p: Tensor, heads: str, rows: str, top_heads: int | None = None, heard: Tensor | None = None,
    pull: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Reduce probabilities over heads and rows.

    Args:
        p: [H, Q, N] fp32.
        heads, rows, top_heads, heard: as in `reference`; all Q rows are read, so "last" is "max" of one.
        pull: [Q, N] attention by position alone, before its smallest value is enforced; None for no division.

    Returns:
        [N] fp32 of the reduced values, [Q, N] for each row.
    """
    if pull is not None:
        p = p / pull.clamp(min=LEAST_GRAVITY)
    if heard is not None:
        p = p * heard[:, None]
    if top_heads is not None:
        p = p[_best(p.sum((1, 2)), top_heads)]
    p = p.amax(0) if heads == "max" else p.mean(0)
    if rows == "each":
        return p
    if rows != "mean":
        return p.amax(0)
    return p.mean(0) if heard is None else p.sum(0) / heard.sum()


@names_its_dtypes
def question_attention(
    q: Tensor,
    k: Tensor,
    columns: Tensor,
    rows_at: Tensor | None,
    scale: float,
    heads: str = "max",
    rows: str = "max",
    top_heads: int | None = None,
    heard: Tensor | None = None,
    gravity: Gravity | None = None,
) -> Tensor:
    """Compute `reference` without its memory; same arguments, same result to rounding, no host sync on a GPU.

    How the work is cut depends on its sizes alone, so a sample scores alike alone and in a batch. Rows by themselves,
    rows that are not heard, gravity and the best heads come from chunks on a GPU, too: the Triton kernel puts rows and
    heads together on the chip.
    """
    _check(q, k, heads, rows, top_heads)
    if wants_triton(k) and rows != "each" and top_heads is None and heard is None and gravity is None:
        from prunevid_qwen.kernels import question_attention_triton

        with where_of(k):
            return question_attention_triton.question_attention(q, k, columns, rows_at, scale, heads, rows)
    if rows == "last":
        q, rows_at = q[:, -1:], None if rows_at is None else rows_at[-1:]
        heard = None if heard is None else heard[-1:]
        gravity = None if gravity is None else (gravity[0][-1:], gravity[1])
    given = q, k, columns, rows_at, scale, heard, gravity
    best = None
    if top_heads is not None and top_heads < q.shape[0]:  # two passes: all rows have a say in which heads are the best
        sums = (log_p.exp().sum((1, 2)) for log_p in _in_chunks(*given))
        best = _best(reduce(torch.add, sums), top_heads)
    parts = (
        (log_p.amax(0) if heads == "max" else log_p.exp().mean(0).log())  # [rows, N]
        for log_p in _in_chunks(*given, best)
    )
    if rows == "each":
        return torch.cat(list(parts))
    if rows == "mean":
        count = q.shape[1] if heard is None else heard.sum()
        return (reduce(torch.add, (part.exp().sum(0) for part in parts)) / count).log()
    return reduce(torch.maximum, (part.amax(0) for part in parts))


def _check(q: Tensor, k: Tensor, heads: str, rows: str, top_heads: int | None) -> None:
    if heads not in ("max", "mean") or rows not in ("max", "mean", "last", "each"):
        raise ValueError(
            f"heads are reduced by max or mean, rows by max, mean or last, or each is kept; got {heads!r} and {rows!r}"
        )
    if q.shape[1] == 0 or q.shape[0] % k.shape[0]:
        raise ValueError(
            f"q is [H, Q >= 1, d] and k [Hkv, S, d] with H a multiple of Hkv, got {list(q.shape)} and {list(k.shape)}"
        )
    if top_heads is not None and not 1 <= top_heads <= q.shape[0]:
        raise ValueError(f"of {q.shape[0]} heads the best {top_heads} cannot be taken")


def _best(sums: Tensor, count: int) -> Tensor:
    return sums.argsort(descending=True, stable=True)[:count].sort().values


def _in_chunks(
    q: Tensor, k: Tensor, columns: Tensor, rows_at: Tensor | None, scale: float, heard: Tensor | None,
    gravity: Gravity | None, best: Tensor | None = None,
) -> Iterator[Tensor]:  # fmt: skip
    """Logarithm of the probability that some rows at a time give the columns, [H, rows, N], of the best heads alone."""
    n_heads, n_rows, dim = q.shape
    kv_heads, length, _ = k.shape
    step = max(1, CHUNK_BYTES // (4 * n_heads * length))
    places = torch.arange(length, device=k.device)
    keys = k.float().transpose(1, 2)  # [Hkv, d, S]
    for start in range(0, n_rows, step):
        chunk = q[:, start : start + step]
        width = chunk.shape[1]
        # grouped-query heads are folded into rows instead of repeating the keys
        logits = torch.matmul(chunk.float().reshape(kv_heads, -1, dim), keys).view(n_heads, width, length)
        logits = logits.mul_(scale)
        if rows_at is not None:
            logits.masked_fill_(places > rows_at[start : start + step, None], float("-inf"))
        if best is not None:
            logits = logits.index_select(0, best)
        log_p = (logits - logits.logsumexp(-1, keepdim=True))[..., columns]
        if gravity is not None:
            pull = gravity[0][start : start + step].float() @ gravity[1].float().T * scale
            log_p -= pull.clamp_(min=LEAST_GRAVITY).log_()
        if heard is not None:
            log_p.masked_fill_(~heard[start : start + step, None], float("-inf"))
        yield log_p
