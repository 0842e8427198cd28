"""Towers of Qwen's three forms, deep enough to differ, their pixels, and what reuse claims to be in plain loops."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any

import torch
import transformers
from torch import Tensor

from prunevid_qwen.adapters import adapter_for
from prunevid_qwen.adapters.attachments import replaced
from prunevid_qwen.adapters.vision_blocks import rotated
from prunevid_qwen.adapters.windows import window_order

FORMS = ("qwen2_5_vl", "qwen2_vl", "qwen3_vl")
_ROPE = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
_VISION: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen2_5_vl": (
        "Qwen2_5_VL",
        {"hidden_size": 32, "intermediate_size": 48, "window_size": 56, "out_hidden_size": 64,
         "fullatt_block_indexes": [1, 3]},
    ),
    "qwen2_vl": ("Qwen2VL", {"embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2}),
    "qwen3_vl": (
        "Qwen3VL",
        {"hidden_size": 32, "intermediate_size": 48, "out_hidden_size": 64, "num_position_embeddings": 16,
         "deepstack_visual_indexes": [0, 2], "patch_size": 14, "num_heads": 2, "depth": 4, "spatial_merge_size": 2,
         "temporal_patch_size": 2},
    ),
}  # fmt: skip


@cache
def deep_model(
    family: str, attention: str = "sdpa", dtype: torch.dtype = torch.float32, full: Sequence[int] = (1, 3)
) -> Any:
    """A model whose tower has four blocks of two heads; Qwen2.5-VL's sees windows of 2 x 2 tokens but in two blocks."""
    name, vision = _VISION[family]
    text = {"vocab_size": 300, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "rope_parameters": dict(_ROPE)}  # fmt: skip
    if family == "qwen3_vl":
        text = {**text, "head_dim": 16}
        text["rope_parameters"] = {**_ROPE, "mrope_interleaved": True}
    own = {**vision, "depth": 4, "num_heads": 2}
    if family == "qwen2_5_vl":
        own["fullatt_block_indexes"] = list(full)
    config = getattr(transformers, f"{name}Config")(text_config=text, vision_config=own)
    torch.manual_seed(0)
    cls = getattr(transformers, f"{name}ForConditionalGeneration")
    model = cls._from_config(config, attn_implementation=attention, dtype=dtype).eval()
    with torch.no_grad():  # the library's small weights would leave blocks and attention little to say
        for each in model.model.visual.parameters():
            if each.ndim > 1:
                each.normal_(0, each[0].numel() ** -0.5)
    return model


def pixels_of(grid: tuple[int, int, int], seed: int = 0) -> Tensor:
    """Pixels [T, L, 4, 1176] that all differ."""
    t, h, w = grid
    return torch.randn(t, h * w, 4, 1176, generator=torch.Generator().manual_seed(seed))


def half_still(grid: tuple[int, int, int], seed: int = 0, share: float = 0.4) -> Tensor:
    """Pixels of which places here and there take those of the position before."""
    pixels = pixels_of(grid, seed)
    moves = torch.rand(grid[0], grid[1] * grid[2], generator=torch.Generator().manual_seed(seed + 1)) < share
    for n in range(1, grid[0]):
        pixels[n] = torch.where(moves[n][:, None, None], pixels[n], pixels[n - 1])
    return pixels


def patch_grid(*grids: tuple[int, int, int]) -> Tensor:
    """Grids of tokens as the tower is told them."""
    return torch.tensor([[t, 2 * h, 2 * w] for t, h, w in grids])


def call(model: Any, pixels: Tensor, grid: tuple[int, int, int], **kwargs: Any) -> Any:
    """The tower on one video."""
    return model.model.visual(pixels.reshape(-1, pixels.shape[-1]), grid_thw=patch_grid(grid), **kwargs)


def levels_of(out: Any) -> Tensor:
    """All that the decoder gets of an output, [N, D * (1 + levels)]."""
    return torch.cat([out.pooler_output, *(getattr(out, "deepstack_features", None) or ())], dim=-1)


@torch.no_grad()
def canvas(
    model: Any, pixels: Tensor, grid: tuple[int, int, int], encoded: Tensor, early: tuple[int, float] | None = None
) -> tuple[Tensor, Tensor]:
    """What reuse claims to be: one position after the other, whole, and a canvas of keys and values for each block.

    What is not encoded computes too, and nobody looks at it: its place on the canvas keeps the last that was.

    Returns: [T * L, D * (1 + levels)], and [T, L] bool which units were encoded to the end.
    """
    tower = model.model.visual
    form = adapter_for(model).tower_form
    assert form is not None
    t, h, w = grid
    cells, held, last = h * w, dict[int, list[Tensor]](), torch.zeros(h * w, 4 * form.width)
    final, tokens = encoded.clone(), list[Tensor]()
    parts = len(form.mergers)
    blocks_of = [len(form.blocks) - 1, *getattr(tower, "deepstack_visual_indexes", ())]

    one = torch.arange(cells) if form.side is None else window_order([(1, h, w)], form.side)
    for n in range(t):
        now = encoded[n].clone()

        def attention(block: int, attn: Any, now: Tensor = now, n: int = n) -> Any:
            def forward(hidden: Tensor, cu_seqlens: Tensor, position_embeddings: Any = None, **_: Any) -> Tensor:
                alive = now if early is None or block <= early[0] else final[n]
                rows = alive[one].repeat_interleave(4)
                q, k, v = attn.qkv(hidden).view(len(hidden), 3, attn.num_heads, -1).unbind(1)
                q, k = (rotated(x, *position_embeddings) for x in (q, k))
                if block not in held:
                    held[block] = [torch.zeros_like(k), torch.zeros_like(v)]
                for canvas_of, fresh in zip(held[block], (k, v), strict=True):
                    canvas_of[rows] = fresh[rows]
                out = torch.zeros_like(q)
                bounds = cu_seqlens.tolist()
                for a, b in itertools.pairwise(bounds):
                    key, value = (x[a:b] for x in held[block])
                    weights = torch.einsum("qhd,khd->hqk", q[a:b], key) * attn.scaling
                    out[a:b] = torch.einsum("hqk,khd->qhd", weights.softmax(-1), value)
                return attn.proj(out.flatten(1))

            return forward

        def block_of(number: int, block: Any, n: int = n, now: Tensor = now) -> Any:
            stock = block.forward

            def forward(hidden: Tensor, **kwargs: Any) -> Tensor:
                out = stock(hidden, **kwargs)
                if early is not None and number == early[0]:
                    own = torch.empty(cells, 4 * form.width)
                    own[one] = torch.nn.functional.normalize(out.reshape(cells, -1), dim=1)
                    final[n] = now & ~((own * last).sum(1) > early[1])
                    last[final[n]] = own[final[n]]
                return out

            return forward

        with ExitStack() as stack:
            for number, block in enumerate(form.blocks):
                stack.enter_context(replaced(block.attn, "forward", attention(number, block.attn)))
                stack.enter_context(replaced(block, "forward", block_of(number, block)))
            out = levels_of(call(model, pixels[n], (1, h, w)))
        before = tokens[-1] if tokens else torch.zeros_like(out)
        alive = [final[n] if early is None or at >= early[0] else now for at in blocks_of]
        pieces = zip(out.chunk(parts, dim=-1), before.chunk(parts, dim=-1), alive, strict=True)
        tokens.append(torch.cat([torch.where(keep[:, None], a, b) for a, b, keep in pieces], dim=-1))
    return torch.cat(tokens), final


@contextmanager
def stock_calls(model: Any) -> Iterator[list[list[list[int]]]]:
    """The grids of each call of the tower as it stands."""
    tower, seen = model.model.visual, list[list[list[int]]]()
    stock = tower.forward

    def forward(hidden_states: Tensor, grid_thw: Tensor, **kwargs: Any) -> Any:
        seen.append(grid_thw.tolist())
        return stock(hidden_states, grid_thw=grid_thw, **kwargs)

    with replaced(tower, "forward", forward):
        yield seen
