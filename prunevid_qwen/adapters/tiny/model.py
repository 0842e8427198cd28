"""A tiny model of each family's real architecture with random weights, and its hand-made inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from prunevid_qwen.adapters.tiny.family import EOS, PAD, VOCAB, TinyRow
from prunevid_qwen.adapters.tiny.rows import FAMILIES

VECTORS = ("q_norm", "k_norm", "image_newline")
"""Parameters of one dimension that are random too, by a part of their name."""


def tiny_model(family: str, layers: int = 6, attention: str = "sdpa", dtype: torch.dtype = torch.float32) -> Any:
    """Make a model of ``layers`` layers with weights large enough that attention is not uniform.

    The weights are the same every time. The library first draws others from torch's global generator: a caller that
    must leave that as found puts it back.

    Args:
        family: a ``model_type`` of `FAMILIES`.
        layers: decoder layers.
        attention: "sdpa", "eager" or another implementation that the library knows.
        dtype: of the weights; they are drawn in fp32.

    Raises:
        KeyError: there is no tiny model of this family.
    """
    import transformers

    row = FAMILIES[family]
    text = {
        "vocab_size": VOCAB, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": layers,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096,
        "bos_token_id": None, "eos_token_id": EOS, "pad_token_id": PAD,
    }  # fmt: skip
    kind = getattr(transformers, f"{row.name}ForConditionalGeneration")
    config = getattr(transformers, f"{row.name}Config")(**row.parts(text))
    config._attn_implementation = attention
    model = kind._from_config(config, attn_implementation=attention)
    if dtype == torch.float64 and hasattr(model.config.text_config, "num_experts"):
        model.set_experts_implementation("eager")  # the others have no fp64
    return drawn(model).to(dtype)


def drawn(model: Any) -> Any:
    """Give a model of fp32 weights that are the same every time, and let it never stop."""
    numbers = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("A_log"):  # how fast a state of linear attention forgets: slowly
                weight.copy_(torch.randn(weight.shape, generator=numbers) * 0.3 - 2.5)
            elif weight.ndim >= 2:
                scale = 0.5 if "embed_tokens" in name else 1.5 / weight[0].numel() ** 0.5
                weight.copy_(torch.randn(weight.shape, generator=numbers) * scale)
            elif any(each in name for each in VECTORS):  # else one that is left out would not show
                weight.add_(torch.randn(weight.shape, generator=numbers) * 0.3)
    model.generation_config.pad_token_id = PAD
    model.generation_config.eos_token_id = VOCAB  # never made, so never stop: sequences of equal length compare simply
    return model.eval()


def tiny_inputs(
    samples: Sequence[TinyRow], seed: int = 0, family: str = "qwen2_5_vl", only: int | None = None
) -> dict[str, Any]:
    """Make left-padded inputs. Videos are a still scene with noise on some cells, so that stage 1 finds static tokens.

    Args:
        samples: one prompt a row.
        seed: of text and pixels.
        family: a ``model_type`` of `FAMILIES`.
        only: the one row to return, without padding, with the text and the pixels that it has among all; None for all.

    Returns:
        What `generate` takes: input_ids and attention_mask [B, S], pixels fp32, and what else the family is given: of
        Qwen's mm_token_type_ids [B, S], grids [n, 3] and seconds between temporal positions [videos].
    """
    numbers = torch.Generator().manual_seed(seed)
    row = FAMILIES[family]
    media = row.media()
    made: list[tuple[list[int], list[int], range]] = []  # ids, types, and which images and videos, of each prompt
    count = 0
    for sample in samples:
        ids: list[int] = []
        kinds: list[int] = []
        first = count
        for kind, *size in sample:
            if kind == "text":
                own = torch.randint(10, VOCAB, (size[0],), generator=numbers).tolist()
                shown = own, [0] * size[0]
            else:
                shown = media.show(kind, size, numbers)
                count += 1
            ids += shown[0]
            kinds += shown[1]
        made.append((ids, kinds, range(first, count)))
    chosen = made if only is None else [made[only]]
    width = max(len(ids) for ids, _, _ in chosen)
    pad = [width - len(ids) for ids, _, _ in chosen]
    out: dict[str, Any] = {
        "input_ids": torch.tensor([[PAD] * p + ids for p, (ids, _, _) in zip(pad, chosen, strict=True)]),
        "attention_mask": torch.tensor([[0] * p + [1] * len(ids) for p, (ids, _, _) in zip(pad, chosen, strict=True)]),
    }
    if row.typed:
        out["mm_token_type_ids"] = torch.tensor(
            [[0] * p + kinds for p, (_, kinds, _) in zip(pad, chosen, strict=True)], dtype=torch.int32
        )
    return {**out, **media.inputs(chosen[0][2].start, chosen[-1][2].stop)}
