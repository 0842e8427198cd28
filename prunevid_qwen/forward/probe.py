"""Probe tokens on their way through the first layers, beside the prompt that they look at.

A probe stands after the prompt, so by causality nothing of the prompt depends on it. It is therefore not put into the
sequence: each layer is run a second time on the probe's rows alone, against the keys and values that the layer has just
cached. Masks, positions, cache and states of the prompt stay what they are without it, bit for bit.
"""

from __future__ import annotations

from contextvars import Context
from typing import Any

import torch
from torch import Tensor

from prunevid_qwen.adapters import Adapter
from prunevid_qwen.adapters.masks import layer_mask
from prunevid_qwen.adapters.seams import cache_name, require_arguments
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.forward.prefill import Prefill
from prunevid_qwen.kernels.products import without_autocast
from prunevid_qwen.reducer import Probe
from prunevid_qwen.stage3_kv.beside import BesideCache
from prunevid_qwen.tokens.device import moved


def check_probe(adapter: Adapter, probe: Probe) -> None:
    """Refuse a probe that was made for a model of other sizes.

    Raises:
        ConfigError: it does not fit; the message names both.
    """
    model = (len(adapter.parts.layers), adapter.hidden_size, adapter.heads)
    wanted = (probe.vectors.shape[0], probe.vectors.shape[-1], probe.heads)
    if wanted != model:
        made_for, this = (
            f"{layers} layers, width {width} and {heads} heads" for layers, width, heads in (wanted, model)
        )
        raise ConfigError(
            f"the selector's predictor was made for a model of {made_for}, but this model has {this}: pass "
            "glimpse_path (--glimpse_path) of a predictor for this model"
        )


class ProbePass:
    """The probe's rows of one prompt; `follow` takes them through one layer after the other.

    Args:
        adapter: of the model.
        probe: what is sent along.
        state: of the prompt, after stage 1.
        embeds: [B, S, D] what the decoder is given.
        positions: its position ids: [3 or 4, B, S], of which the last three rows are time, height and width, or [B, S].
    """

    def __init__(self, adapter: Adapter, probe: Probe, state: Prefill, embeds: Tensor, positions: Tensor) -> None:
        self.adapter, self.probe, self.state = adapter, probe, state
        batch, length, _ = embeds.shape
        count = probe.vectors.shape[1]
        ends = [state.end_of(b) for b in range(batch)]  # in assisted decoding candidate tokens stand behind it
        last = torch.tensor(ends, device="cpu")  # whatever the default device is
        valid = state.valid & (torch.arange(length, device="cpu") <= last[:, None])
        if state.past:
            before = valid.new_ones(batch, state.past) if state.past_valid is None else state.past_valid
            valid = torch.cat([before, valid], dim=1)
        self._seen = valid  # [B, past + S] on the CPU
        valid = torch.cat([valid, valid.new_ones(batch, count)], dim=1)
        self._vectors = moved(probe.vectors, embeds.device).to(embeds.dtype)
        self.hidden = self._vectors[0].expand(batch, -1, -1)  # [B, P, D]
        self._mask = layer_mask(
            adapter.parts.text_config, self.hidden, None if bool(valid.all()) else valid, state.past + length
        )
        at = moved(last, positions.device)
        rows = positions[-3:] if adapter.spatial else positions[None]
        places = rows.gather(-1, at[None, :, None].expand(len(rows), -1, -1)) + 1
        places = places + torch.arange(count, device=positions.device)
        self._rope = adapter.rope(embeds, places if adapter.spatial else places[0])

    def follow(self, layer: int, kwargs: dict[str, Any], device: torch.device) -> None:
        """Look with layer ``layer``, which has just run on the prompt, if it is asked for; then go through it.

        Args:
            layer: its index; layers come in order.
            kwargs: what it was called with.
            device: where it ran.

        Raises:
            SetupError: the installed transformers calls its layers with other names.
        """
        require_arguments(kwargs, "a decoder layer", "attention_mask", "position_embeddings")
        self.state.cache.written(layer, self.state.past + self.state.valid.shape[1])
        cached = self.state.cache.layers[layer]
        self.hidden = self.hidden.to(device)
        rope = tuple(angle.to(device) for angle in self._rope)
        if layer in self.probe.layers:
            self._look(layer, cached.keys, rope)
        if layer == self.probe.layers[-1]:
            return
        mask = self._mask
        own = {
            "attention_mask": mask.to(device) if isinstance(mask, Tensor) else mask,
            "position_embeddings": rope,
            cache_name(kwargs, "a decoder layer"): BesideCache(cached.keys, cached.values),
            "position_ids": None,
            "cache_position": None,
        }
        given = {**kwargs, **{name: value for name, value in own.items() if name in kwargs}}
        given.pop("hidden_states", None)
        forward = self.adapter.parts.layers[layer].forward  # not the layer itself: no hook of ours runs again
        out = Context().run(lambda: forward(self.hidden, **given))  # empty: nor does the library capture attentions
        hidden = out[0] if isinstance(out, tuple) else out
        self.hidden = hidden + self._vectors[layer + 1].to(device)

    def _look(self, layer: int, keys: Tensor, rope: tuple[Tensor, ...]) -> None:
        """Write into every row what the probe's queries make of the visual tokens' keys, [1, H, P, N] a layer."""
        queries = self.adapter.before_attention(layer, self.hidden)
        for b, row in enumerate(self.state.rows):
            if row.layout is None:
                continue
            cos, sin = (angle[..., b, :, :] for angle in rope)
            q = self.adapter.question_states(layer, queries[b], (cos, sin)).float()  # [H, P, d]
            at = self.state.places(b, keys.device)[moved(row.layout.visual, keys.device)] + self.state.past
            k = keys[b].index_select(1, at).float()  # [Hkv, N, d]
            grouped = q.unflatten(0, (k.shape[0], -1)).flatten(1, 2)  # [Hkv, H / Hkv * P, d]
            with without_autocast(grouped.device):
                logits = (grouped @ k.transpose(1, 2)).view(q.shape[0], q.shape[1], -1) * self.adapter.scale(layer)
                if self.probe.softmax:
                    own = self.adapter.key_states(layer, queries[b], (cos, sin))
                    seen = moved(self._seen[b].nonzero()[:, 0], keys.device)
                    logits = logits - row_sums(q, keys[b].index_select(1, seen), own, self.adapter.scale(layer))
            row.probe = logits[None] if row.probe is None else torch.cat([row.probe.to(logits.device), logits[None]])


def row_sums(queries: Tensor, before: Tensor, own: Tensor, scale: float) -> Tensor:
    """Sum what the queries of tokens behind a prompt make of all that they see: logarithms of sums of exponentials.

    Args:
        queries: [H, P, d] fp32.
        before: [Hkv, S, d] keys of the prompt.
        own: [Hkv, P, d] keys of these tokens, of which each sees those up to itself.
        scale: factor on the products.

    Returns:
        [H, P, 1] fp32.
    """
    count, keys = queries.shape[1], torch.cat([before, own], dim=1).float()
    logits = queries @ keys.repeat_interleave(len(queries) // len(keys), dim=0).transpose(1, 2) * scale
    later = torch.ones(count, count, dtype=torch.bool, device=logits.device).triu(1)
    hidden = torch.nn.functional.pad(later, (before.shape[1], 0))
    return logits.masked_fill(hidden, -torch.inf).logsumexp(dim=-1, keepdim=True)
