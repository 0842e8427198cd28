"""Looking into blocks of vision towers: what they return, whom their attention looks at, and its keys."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from prunevid_qwen.adapters.attachments import hook
from prunevid_qwen.adapters.seams import require_arguments
from prunevid_qwen.kernels.pooled_attention import pooled_attention
from prunevid_qwen.kernels.products import without_autocast
from prunevid_qwen.kernels.received_attention import received_attention

Note = Callable[[int, str, Tensor], None]
"""Takes the index of a block, what of it, and [..., C] for the patches, as the tower holds them."""


def feature_block_of(layer: int | Sequence[int], blocks: int) -> int:
    """Return the block, counted from the end, whose output features are made of; the last one where they are several.

    Args:
        layer: ``vision_feature_layer`` of a config: indices among the embeddings and the outputs of all blocks.
        blocks: number of blocks.
    """
    layers = (layer,) if isinstance(layer, int) else layer
    return max(each if each < 0 else each - 1 - blocks for each in layers)


class _Projected(threading.local):
    """What the projections of the call under way made, by their name; each thread has a call of its own."""

    def __init__(self) -> None:
        self.made: dict[str, Tensor] = {}


@contextmanager
def watched_blocks(
    blocks: Sequence[nn.Module], numbers: Sequence[int], kinds: Sequence[str], note: Note, unit: int
) -> Iterator[None]:
    """Note what some blocks of Qwen's tower make, inside the block: [P, C], patches of all images in a row.

    Args:
        blocks: of the tower, whose ``attn`` projects by one ``qkv`` and is told segments and rotary angles.
        numbers: which of them.
        kinds: of "states", "received", "keys" and "pooled", as in `VisionQuery`.
        note: is told.
        unit: patches of a token, which stand together.
    """

    def attend(number: int, module: Any, kwargs: Mapping[str, Any], made: Mapping[str, Tensor]) -> None:
        require_arguments(kwargs, "a vision block's attention", "cu_seqlens", "position_embeddings")
        states = made["qkv"]
        queries, keys, _ = states.view(len(states), 3, module.num_heads, -1).unbind(1)  # [P, H, d]
        queries, keys = (rotated(x, *kwargs["position_embeddings"]) for x in (queries, keys))
        if "received" in kinds:
            lengths = [stop - start for start, stop in pairwise(kwargs["cu_seqlens"].tolist())]
            got = received_attention(queries.transpose(0, 1), keys.transpose(0, 1), lengths, float(module.scaling))
            note(number, "received", got[:, None])
        if "pooled" in kinds:
            rows, columns = queries.transpose(0, 1), keys.transpose(0, 1)
            lengths = kwargs["cu_seqlens"].diff().tolist()
            got = pooled_attention(rows, columns, lengths, unit, float(module.scaling))
            note(number, "pooled", got.repeat_interleave(unit)[:, None])
        if "keys" in kinds:
            note(number, "keys", keys.float().mean(1))

    with _watched(blocks, numbers, kinds, note, "attn", ("qkv",), attend):
        yield


@contextmanager
def watched_layers(
    layers: Sequence[nn.Module], numbers: Sequence[int], kinds: Sequence[str], note: Note,
    attention: str = "self_attn", projections: tuple[str, str] = ("q_proj", "k_proj"),
) -> Iterator[None]:  # fmt: skip
    """Note what some layers of a CLIP or SigLIP tower make, inside the block: [images, P, C], a CLS token first.

    Args:
        layers: of the tower.
        numbers: which of them.
        kinds: of "states", "received", "cls", "keys" and "pooled", as in `VisionQuery`.
        note: is told.
        attention: name of a layer's attention.
        projections: names of its modules whose outputs are queries and keys.
    """

    def attend(number: int, module: Any, _kwargs: Mapping[str, Any], made: Mapping[str, Tensor]) -> None:
        queries, keys = (made[name].unflatten(-1, (module.num_heads, -1)) for name in projections)
        images, patches = queries.shape[:2]  # [images, P, H, d]
        if "received" in kinds:
            rows, columns = (x.flatten(0, 1).transpose(0, 1) for x in (queries, keys))
            got = received_attention(rows, columns, [patches] * images, float(module.scale))
            note(number, "received", got.view(images, patches, 1))
        if "pooled" in kinds:
            rows, columns = (x.flatten(0, 1).transpose(0, 1) for x in (queries, keys))
            got = pooled_attention(rows, columns, [patches] * images, 1, float(module.scale))
            note(number, "pooled", got.view(images, patches, 1))
        if "cls" in kinds:
            with without_autocast(keys.device):
                logits = torch.einsum("ihd,iphd->ihp", queries[:, 0].float(), keys.float()) * float(module.scale)
                note(number, "cls", logits.softmax(-1).mean(1)[..., None])
        if "keys" in kinds:
            note(number, "keys", keys.float().mean(2))

    with _watched(layers, numbers, kinds, note, attention, projections, attend):
        yield


@contextmanager
def _watched(
    blocks: Sequence[nn.Module], numbers: Sequence[int], kinds: Sequence[str], note: Note, attention: str,
    projections: Sequence[str], attend: Callable[[int, Any, Mapping[str, Any], Mapping[str, Tensor]], None],
) -> Iterator[None]:  # fmt: skip
    """Hook blocks: what they return, and their attention with what its projections made: no product is made twice."""

    def states(number: int) -> Any:
        def after(_module: nn.Module, _args: Any, out: Any) -> None:
            note(number, "states", out[0] if isinstance(out, tuple) else out)

        return after

    def project(here: _Projected, name: str) -> Any:
        def after(_module: nn.Module, _args: Any, out: Tensor) -> None:
            here.made[name] = out.detach()

        return after

    def act(here: _Projected, number: int) -> Any:
        @torch.no_grad()
        def after(module: Any, _args: Any, kwargs: dict[str, Any], _out: Any) -> None:
            made, here.made = here.made, {}
            attend(number, module, kwargs, made)

        return after

    with ExitStack() as stack:
        for number in dict.fromkeys(numbers):
            block = blocks[number]
            if "states" in kinds:
                hook(stack, block.register_forward_hook, states(number))
            if set(kinds) - {"states"}:
                here, module = _Projected(), block.get_submodule(attention)
                for name in projections:
                    hook(stack, module.get_submodule(name).register_forward_hook, project(here, name))
                hook(stack, module.register_forward_hook, act(here, number), with_kwargs=True)
        yield


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate [P, H, d] by the angles of its places [P, d], in fp32 as the tower does."""
    first, second = x.float().chunk(2, dim=-1)
    turned = x.float() * cos[:, None].float() + torch.cat((-second, first), dim=-1) * sin[:, None].float()
    return turned.to(x.dtype)
