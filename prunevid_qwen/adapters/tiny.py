"""Tiny random models of each family's real architecture, and hand-made inputs: no download, no processor, a tenth of a
second on a CPU. The self-check and the tests prove what they prove on these.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

PAD, EOS, START, END, IMAGE, VIDEO, VOCAB = 0, 1, 2, 3, 4, 5, 300
MERGE, PATCH = 2, 14

Sample = Sequence[tuple[Any, ...]]
"""One prompt: a list of ("text", n), ("video", T, H, W) and ("image", H, W), in merged tokens."""


def tiny_model(family: str, layers: int = 6, attention: str = "sdpa", dtype: torch.dtype = torch.float32) -> Any:
    """Make a model of ``layers`` layers with weights large enough that attention is not uniform.

    The weights are the same every time. The library first draws others from torch's global generator: a caller that
    must leave that as found puts it back.

    Args:
        family: a ``model_type`` of `adapters.families`.
        layers: decoder layers.
        attention: "sdpa", "eager" or another implementation that the library knows.
        dtype: of the weights; they are drawn in fp32.

    Raises:
        KeyError: there is no tiny model of this family.
    """
    import transformers

    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
    text = {
        "vocab_size": VOCAB, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": layers,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096,
        "bos_token_id": None, "eos_token_id": EOS, "pad_token_id": PAD, "rope_parameters": rope,
    }  # fmt: skip
    ids = {
        "image_token_id": IMAGE, "video_token_id": VIDEO, "vision_start_token_id": START, "vision_end_token_id": END,
    }  # fmt: skip
    shared = {"depth": 1, "num_heads": 2, "patch_size": PATCH, "spatial_merge_size": MERGE, "temporal_patch_size": 2}
    vision = {
        "qwen2_5_vl": dict(shared, hidden_size=32, intermediate_size=48, window_size=56, out_hidden_size=64,
                           fullatt_block_indexes=[0], tokens_per_second=2),
        "qwen2_vl": dict(shared, embed_dim=32, hidden_size=64, mlp_ratio=2),
    }[family]  # fmt: skip
    name = {"qwen2_5_vl": "Qwen2_5_VL", "qwen2_vl": "Qwen2VL"}[family]
    kind = getattr(transformers, f"{name}ForConditionalGeneration")
    config = getattr(transformers, f"{name}Config")(
        text_config=text, vision_config=vision, tie_word_embeddings=False, **ids
    )
    config._attn_implementation = attention
    model = kind._from_config(config, attn_implementation=attention)
    numbers = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim >= 2:
                scale = 0.5 if "embed_tokens" in name else 1.5 / weight[0].numel() ** 0.5
                weight.copy_(torch.randn(weight.shape, generator=numbers) * scale)
    model.generation_config.pad_token_id = PAD
    model.generation_config.eos_token_id = VOCAB  # never made, so never stop: sequences of equal length compare simply
    return model.to(dtype).eval()


def tiny_inputs(samples: Sequence[Sample], seed: int = 0, family: str = "qwen2_5_vl") -> dict[str, Any]:
    """Make left-padded inputs. Videos are a still scene with noise on some cells, so that stage 1 finds static tokens.

    Args:
        samples: one prompt a row.
        seed: of text and pixels.
        family: decides whether the seconds between temporal positions are among them.

    Returns:
        What `generate` takes: input_ids, attention_mask and mm_token_type_ids [B, S], grids [n, 3], pixels [P, C] fp32.
    """
    numbers = torch.Generator().manual_seed(seed)
    rows: list[list[int]] = []
    types: list[list[int]] = []
    grids: dict[int, list[list[int]]] = {1: [], 2: []}
    pixels: dict[int, list[torch.Tensor]] = {1: [], 2: []}
    for sample in samples:
        ids: list[int] = []
        kinds: list[int] = []
        for kind, *size in sample:
            if kind == "text":
                ids += torch.randint(10, VOCAB, (size[0],), generator=numbers).tolist()
                kinds += [0] * size[0]
                continue
            which, token = (2, VIDEO) if kind == "video" else (1, IMAGE)
            t, h, w = size if kind == "video" else (1, *size)
            n = t * h * w
            ids += [START, *[token] * n, END]
            kinds += [0, *[which] * n, 0]
            grids[which].append([t, MERGE * h, MERGE * w])
            pixels[which].append(_scene(t, h * w, numbers))
        rows.append(ids)
        types.append(kinds)
    width = max(map(len, rows))
    pad = [width - len(row) for row in rows]
    out: dict[str, Any] = {
        "input_ids": torch.tensor([[PAD] * p + row for p, row in zip(pad, rows, strict=True)]),
        "attention_mask": torch.tensor([[0] * p + [1] * len(row) for p, row in zip(pad, rows, strict=True)]),
        "mm_token_type_ids": torch.tensor(
            [[0] * p + row for p, row in zip(pad, types, strict=True)], dtype=torch.int32
        ),
    }
    if grids[2]:
        out["video_grid_thw"] = torch.tensor(grids[2])
        out["pixel_values_videos"] = torch.cat(pixels[2])
        if family == "qwen2_5_vl":
            out["second_per_grid_ts"] = torch.tensor([2.25 + 0.5 * i for i in range(len(grids[2]))])
    if grids[1]:
        out["image_grid_thw"] = torch.tensor(grids[1])
        out["pixel_values"] = torch.cat(pixels[1])
    return out


def _scene(t: int, cells: int, numbers: torch.Generator) -> torch.Tensor:
    still = torch.randn(1, cells, MERGE * MERGE * 3 * 2 * PATCH * PATCH, generator=numbers)
    noise = torch.randn(t, cells, still.shape[-1], generator=numbers)
    moves = (torch.rand(1, cells, 1, generator=numbers) < 0.5).float()
    return (still + noise * (0.05 + moves)).reshape(t * cells * MERGE * MERGE, -1)
