"""Random glimpse predictors for the tiny models, and the oracle of the probe: the glimpse token inside the sequence."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.stage2_select.glimpse import GlimpseVIP
from prunevid_qwen.stage2_select.glimpse.facts import GlimpseFacts
from tests.models import tiny_model

LAYER = 2
FACTS = GlimpseFacts(
    layers=6, hidden_size=64, heads=4, vision_width=32, selected_layers=(LAYER,), reduce_layer=LAYER,
    selected_visual_layers=(0,), width=16, condition=32, vip_heads=4,
)  # fmt: skip


LLAVA = replace(FACTS, use_attention_logits=False, pad_to_square=True, selected_visual_layers=(1, 0))


@cache
def folder_of(facts: GlimpseFacts = FACTS, seed: int = 0) -> str:
    """A folder with a random predictor whose logits spread around 0."""
    return str(random_predictor(facts, seed).save_pretrained(Path(mkdtemp(prefix="glimpse_")) / "predictor"))


def random_predictor(facts: GlimpseFacts = FACTS, seed: int = 0) -> GlimpseVIP:
    made = GlimpseVIP(facts)
    numbers = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if weight.ndim >= 2:
                weight.copy_(torch.randn(weight.shape, generator=numbers) * 1.5 / weight.shape[1] ** 0.5)
            elif "norm" in name:
                weight.fill_(1.0)
            else:
                weight.copy_(torch.randn(weight.shape, generator=numbers) * 0.3)
        made.glimpse_vectors.copy_(torch.randn(made.glimpse_vectors.shape, generator=numbers) * 0.5)
    return made.eval()


def config(facts: GlimpseFacts = FACTS, **options: Any) -> PruneVidConfig:
    """Selector glimpse with the random predictor, without stage 1 unless it is asked for."""
    start = {"enable_stage1": False, "selector": "glimpse", "glimpse_path": folder_of(facts)}
    return PruneVidConfig.from_record({**start, **options})  # those of other mergers are passed over


@torch.no_grad()
def inside_the_sequence(
    predictor: GlimpseVIP, embeds: torch.Tensor, positions: torch.Tensor, visual: list[int], family: str = "qwen2_5_vl"
) -> torch.Tensor:
    """What a glimpse token that stands behind one unpadded prompt attends to, [L, H, N], in a forward of its own.

    Shares no code with the probe: the token is part of the sequence, its vectors are added by hooks, and queries and
    keys are those that the attention function of the library is given.
    """
    model = tiny_model("eager", family)
    decoder = model.model.language_model
    vectors = predictor.glimpse_vectors.to(embeds.dtype)
    x = torch.cat([embeds, vectors[0].expand(1, 1, -1)], dim=1)
    place = torch.cat([positions, positions[..., -1:] + 1], dim=-1)
    rows, handles = [], []

    def add(layer: int) -> Any:
        def hook(_module: Any, args: Any, kwargs: Any) -> Any:
            hidden = args[0].clone()
            hidden[:, -1] += vectors[layer]
            return (hidden, *args[1:]), kwargs

        return hook

    def note(layer: int) -> Any:
        def hook(module: Any, _args: Any, kwargs: Any, _out: Any) -> None:
            from transformers.models.llama.modeling_llama import apply_rotary_pos_emb
            from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as library

            hidden, (cos, sin) = kwargs["hidden_states"], kwargs["position_embeddings"]
            q, k = (
                p(hidden).view(1, hidden.shape[1], -1, module.head_dim).transpose(1, 2)
                for p in (module.q_proj, module.k_proj)
            )
            if cos.ndim == 4:  # before 5.17 one row for each of time, height and width
                q, k = library.apply_multimodal_rotary_pos_emb(
                    q, k, cos, sin, module.config.rope_parameters["mrope_section"]
                )
            else:
                q, k = apply_rotary_pos_emb(q, k, cos, sin)
            k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
            row = (q[0, :, -1:] @ k[0].transpose(1, 2))[:, 0] * module.scaling
            rows.append((row if predictor.facts.use_attention_logits else row.log_softmax(-1))[:, visual])

        return hook

    try:
        for layer in range(1, predictor.facts.reduce_layer + 1):
            handles.append(decoder.layers[layer].register_forward_pre_hook(add(layer), with_kwargs=True))
        for layer in predictor.facts.selected_layers:
            handles.append(decoder.layers[layer].self_attn.register_forward_hook(note(layer), with_kwargs=True))
        decoder(inputs_embeds=x, position_ids=place, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack(rows)
