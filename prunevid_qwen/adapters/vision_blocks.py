"""Looking into blocks of a vision tower whose attention projects queries, keys and values at once, as Qwen's does."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from prunevid_qwen.attachments import hook
from prunevid_qwen.kernels.received_attention import received_attention
from prunevid_qwen.seams import require

Note = Callable[[int, str, Tensor], None]
"""Takes the index of a block, what it is, and [P, C] for the patches, in the order in which the tower holds them."""


class _Projected(threading.local):
    """What the projection of the call under way made, [P, 3 * C]; each thread has a call of its own."""

    states: Tensor | None = None


@contextmanager
def watched_blocks(
    blocks: Sequence[nn.Module], numbers: Sequence[int], kinds: Sequence[str], note: Note
) -> Iterator[None]:
    """Note what some blocks make of their patches, inside the block.

    Args:
        blocks: of the tower.
        numbers: which of them.
        kinds: of "states", "received" and "keys", as in `VisionQuery`.
        note: is told.
    """
    with ExitStack() as stack:
        for number in dict.fromkeys(numbers):
            block: Any = blocks[number]
            if "states" in kinds:
                hook(stack, block.register_forward_hook, _states(number, note))
            if "received" in kinds or "keys" in kinds:
                here = _Projected()
                hook(stack, block.attn.qkv.register_forward_hook, _project(here))
                hook(stack, block.attn.register_forward_hook, _attend(here, number, kinds, note), with_kwargs=True)
        yield


def _states(number: int, note: Note) -> Any:
    def after(_module: nn.Module, _args: Any, out: Any) -> None:
        note(number, "states", out[0] if isinstance(out, tuple) else out)

    return after


def _project(here: _Projected) -> Any:
    def after(_module: nn.Module, _args: Any, out: Tensor) -> None:
        here.states = out.detach()  # the products are made once: the block's own

    return after


def _attend(here: _Projected, number: int, kinds: Sequence[str], note: Note) -> Any:
    @torch.no_grad()
    def after(module: Any, _args: Any, kwargs: dict[str, Any], _out: Any) -> None:
        require(kwargs, "a vision block's attention", "cu_seqlens", "position_embeddings")
        states, here.states = here.states, None
        assert states is not None
        queries, keys, _ = states.view(len(states), 3, module.num_heads, -1).unbind(1)  # [P, H, d]
        queries, keys = (_rotated(x, *kwargs["position_embeddings"]) for x in (queries, keys))
        if "received" in kinds:
            bounds = kwargs["cu_seqlens"].tolist()
            lengths = [stop - start for start, stop in pairwise(bounds)]
            got = received_attention(queries.transpose(0, 1), keys.transpose(0, 1), lengths, float(module.scaling))
            note(number, "received", got[:, None])
        if "keys" in kinds:
            note(number, "keys", keys.float().mean(1))

    return after


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate [P, H, d] by the angles of its places [P, d], in fp32 as the tower does."""
    first, second = x.float().chunk(2, dim=-1)
    turned = x.float() * cos[:, None].float() + torch.cat((-second, first), dim=-1) * sin[:, None].float()
    return turned.to(x.dtype)
