"""The oracle that needs no reference code: pruning equals masking the dropped columns.

One forward without a cache for each sample over [prompt after stage 1 + generated tokens], with explicit 4-D masks:
in layers after a step no row sees what it dropped; in layers before it the prompt sees that, and generated rows do only
when stage 3 was off. It shares no code with the hooks but the maps they decided.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch

from prunevid_qwen.forward.selfcheck.masked_forward import shown_alone
from prunevid_qwen.tokens.trace import Trace


def text_inputs(model: Any, inputs: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """What the stock model hands its decoder: embeddings [B, S, D] and positions [R, B, S], R = 3, or 1 of tokens.

    What it is to add after its first layers (DeepStack) stands beside an embedding: [B, S, D + levels * D].
    """
    seen: dict[str, Any] = {}

    def note(_module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        if seen:
            return
        embeds, levels = kwargs["inputs_embeds"], kwargs.get("deepstack_visual_embeds") or ()
        parts = [embeds]
        for level in levels:
            parts.append(torch.zeros_like(embeds))
            parts[-1][kwargs["visual_pos_masks"]] = level
        seen.update(embeds=torch.cat(parts, -1), positions=kwargs["position_ids"])

    handle = model.model.language_model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        model.generate(**inputs, max_new_tokens=1, do_sample=False)
    finally:
        handle.remove()
    return seen["embeds"], rows_of(seen["positions"], len(seen["embeds"]))


def rows_of(positions: torch.Tensor, batch: int) -> torch.Tensor:
    """Position ids as the decoder takes them, as [R, B, S]: of time, height and width, or of tokens alone."""
    return positions[-3:] if positions.ndim == 3 else positions.expand(batch, -1)[None]


@torch.no_grad()
def masked_logits(
    model: Any,
    embeds: torch.Tensor,
    positions: torch.Tensor,
    inputs: dict[str, Any],
    sequences: torch.Tensor,
    trace: Trace,
    compress: bool,
) -> list[torch.Tensor]:
    """Logits [new tokens, vocabulary] of every sample, for the token after the prompt and each one after it."""
    out = []
    dim = model.get_input_embeddings().embedding_dim
    prompt = inputs["input_ids"].shape[1]
    for b, sample in enumerate(trace.samples):
        at = inputs["attention_mask"][b].nonzero()[:, 0]
        ids = inputs["input_ids"][b, at].tolist()
        x, p = embeds[b, at], positions[:, b, at]
        marks = [getattr(model.config, f"{kind}_token_id", None) for kind in ("image", "video")]
        visual = [i for i, token in enumerate(ids) if token in marks]
        # stage 1 by hand: the groups of a block replace its tokens, in the map's order
        # (state, position, visual number or -1, place in the prompt of what is text)
        entries: list[tuple[torch.Tensor, torch.Tensor, int, int]] = []
        texts = {each.at: set([] if each.text is None else each.text.tolist()) for each in sample.reductions}
        groups = _groups(sample, len(visual))
        runs = runs_of(sample, visual)
        for i in range(len(ids)):
            if i not in visual:
                if i not in texts.get(-1, ()):  # that of frames which stage 1 emptied
                    entries.append((x[i], p[:, i], -1, i))
                continue
            run = next((run for run in runs if visual[run[0]] == i), ())  # that begins here
            for number, (members, rep) in enumerate(groups):
                if rep in run:
                    mean = torch.stack([x[visual[m]] for m in members]).mean(0)
                    entries.append((mean if len(members) > 1 else x[visual[members[0]]], p[:, visual[rep]], number, -1))
        # the groups that each layer sees, and those that are left in the end
        seen, left, texts_left = [], list(range(len(groups))), set(range(len(ids))) - set(visual)
        cuts = {each.at: each.map.rep.tolist() for each in sample.reductions if each.at >= 0}
        for i in range(len(model.model.language_model.layers)):
            seen.append((set(left), texts_left))
            left = [left[place] for place in cuts[i]] if i in cuts else left
            texts_left = texts_left - texts.get(i, set())
        new = sequences[b, prompt:-1]
        n, total = len(entries), len(entries) + len(new)
        following = entries[-1][1].max() + 1 + torch.arange(len(new))
        whole = torch.stack([e[0] for e in entries])
        hidden = torch.cat([whole[:, :dim], model.get_input_embeddings()(new)])[None]
        levels = whole[:, dim:].unflatten(1, (-1, dim)).unbind(1) if whole.shape[1] > dim else ()
        place = torch.cat([torch.stack([e[1] for e in entries], 1), following.expand(len(p), -1)], 1)[:, None]
        causal = torch.ones(total, total, dtype=torch.bool).tril()
        handles, alone = [], ExitStack()
        for i, layer in enumerate(model.model.language_model.layers):
            if not hasattr(layer, "self_attn"):  # linear attention: it is given the short sequence
                alone.enter_context(shown_alone(layer, ~_dropped(entries, *seen[i], len(new))))
                continue
            allowed = causal & ~_dropped(entries, *seen[i], len(new))
            if compress:
                allowed[n:] &= ~_dropped(entries, set(left), texts_left, len(new))
            allowed |= torch.eye(total, dtype=torch.bool)
            mask = torch.where(allowed, 0.0, torch.finfo(hidden.dtype).min)[None, None].to(hidden.dtype)
            handles.append(
                layer.register_forward_pre_hook(
                    lambda _m, args, kwargs, mask=mask: (args, {**kwargs, "attention_mask": mask}), with_kwargs=True
                )
            )
            if i < len(levels):
                handles.append(layer.register_forward_hook(_adding(levels[i])))
        try:
            state = model.model.language_model(
                inputs_embeds=hidden, position_ids=place if len(place) == 3 else place[0], use_cache=False
            )[0]
        finally:
            alone.close()
            for handle in handles:
                handle.remove()
        out.append(model.lm_head(state[0, n - 1 :]))
    return out


def _adding(level: torch.Tensor) -> Any:
    """Add [n, D] to the first n tokens of a layer's output, a tensor or a tuple."""

    def after(_module: Any, _args: Any, out: Any) -> Any:
        states = out[0] if isinstance(out, tuple) else out
        states = torch.cat([states[:, : len(level)] + level, states[:, len(level) :]], 1)
        return (states, *out[1:]) if isinstance(out, tuple) else states

    return after


def runs_of(sample: Any, visual: list[int]) -> list[list[int]]:
    """Return the visual tokens, by number, that stand side by side in one block: their groups take the first places."""
    runs: list[list[int]] = []
    for block in sample.blocks:
        for number in range(block.start, block.stop):
            if number == block.start or visual[number] != visual[number - 1] + 1:
                runs.append([])
            runs[-1].append(number)
    return runs


def _dropped(entries: list[Any], kept: set[int], texts: set[int], new: int) -> torch.Tensor:
    """Say which of the prompt's entries are not among the visual or text tokens kept; the ``new`` tokens are."""
    gone = [number not in kept if number >= 0 else i not in texts for _, _, number, i in entries]
    return torch.tensor(gone + [False] * new)


def _groups(sample: Any, n: int) -> list[tuple[list[int], int]]:
    """Members and place of every visual token after stage 1."""
    if sample.merged is None:
        return [([i], i) for i in range(n)]
    target = sample.merged.target.tolist()
    return [([i for i, t in enumerate(target) if t == g], rep) for g, rep in enumerate(sample.merged.rep.tolist())]
