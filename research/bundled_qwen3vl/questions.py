"""What the second toy's decoder learns from: answers, and in some phases the first toy's states and answers too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from research.bundled_model.batches import draw_questions, seen_by_first_toy
from research.bundled_model.fast_forward import answer_states, patchify
from research.bundled_model.phases import QuestionPhase, VisionPhase
from research.bundled_model.sequence import AFTER_VIDEO, Blocks
from research.bundled_model.sequence import PREFIX as FIRST_PREFIX
from research.bundled_qwen3vl.fast_forward import vision_features
from research.bundled_qwen3vl.sequence import Layout, layout
from research.bundled_qwen3vl.tokenizer import VOCABULARY

_BACKGROUND_WEIGHT = 0.25
_END_WEIGHT = 0.05  # of the token after the answer
_RANK_LAYER = 1
_TAUGHT_LAYERS = (2, 3, 5, 7)  # layers whose states the first toy shows; DeepStack adds to those before


@dataclass(frozen=True)
class TaughtPhase(QuestionPhase):
    """A question phase, with what the first toy shows.

    Args:
        states_weight: weight of the distance to the first toy's states, over their variance.
        answers_weight: weight of the divergence from its answers.
    """

    states_weight: float = 0.0
    answers_weight: float = 0.0

    @property
    def taught(self) -> bool:
        """Tell whether the first toy is looked at."""
        return self.states_weight > 0 or self.answers_weight > 0


@dataclass(frozen=True)
class BeginPhase:
    """Fill the decoder with the first toy's parameters: `begin_from`.

    Args:
        name: as the learning curve calls it.
        steps: none; every phase says how many it takes.
    """

    name: str
    steps: int = 0


Phase = VisionPhase | BeginPhase | TaughtPhase


@dataclass(frozen=True)
class TaughtBatch:
    """A batch of videos and questions.

    Args:
        levels: the visual tokens, then what DeepStack adds: [B, V, D] float32 each, of the whole video.
        keep: [B, V'] int64, or None.
        layout: of the prompt before the questions.
        blocks: the questions.
        ranks: [B, V'] int64; see `QuestionBatch`.
        types: [B][N]; see `QuestionBatch`.
        states: the first toy's at the visual tokens left and at the questions, [B, V' + N * Q, D] bfloat16 of each
            layer of `_TAUGHT_LAYERS`; empty where nothing is taught.
        logits: [B, N, words] float32, its answers.
    """

    levels: list[Tensor]
    layout: Layout
    blocks: Blocks
    ranks: Tensor
    types: list[list[str]]
    states: list[Tensor]
    logits: Tensor | None


class TaughtBatches(Dataset[TaughtBatch]):
    """Batch ``step`` of a phase; both towers and the first toy's decoder run here."""

    def __init__(self, phase: TaughtPhase, key: tuple[int, int], visual: Any, teacher: Any) -> None:
        self.phase, self.key, self.visual, self.teacher = phase, key, visual, teacher

    def __len__(self) -> int:
        """Count the steps of the phase."""
        return self.phase.steps

    def __getitem__(self, step: int) -> TaughtBatch:
        """Draw the videos of a step, look at them and ask about them."""
        rng = np.random.default_rng([*self.key, step])
        drawn = draw_questions(self.phase, rng)
        videos, count, height, width, _ = drawn.video.shape
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            made = vision_features(self.visual, patchify(drawn.video), height // 14, width // 14)
        times = None if drawn.picture else _times(rng, drawn.seconds, count)
        asked = drawn.blocks.ids.shape[-1]
        states, logits = self._shown(drawn) if self.phase.taught else ([], None)
        return TaughtBatch(
            [level.view(videos, -1, level.shape[-1]) for level in made],
            layout(drawn.grid, times, asked, drawn.keep, videos, outer=rng.random() < 0.5),
            drawn.blocks,
            drawn.ranks,
            drawn.types,
            states,
            logits,
        )

    def _shown(self, drawn: Any) -> tuple[list[Tensor], Tensor]:
        """Return the first toy's states and answers."""
        batch = seen_by_first_toy(drawn, self.teacher.model.visual)
        embed, videos = self.teacher.model.language_model.embed_tokens, drawn.video.shape[0]
        tap: list[Tensor] = []
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            around = [embed(torch.tensor(ids)).expand(videos, -1, -1) for ids in (FIRST_PREFIX, AFTER_VIDEO)]
            prefix = torch.cat([around[0], batch.features, around[1]], 1)
            states = answer_states(self.teacher, prefix, batch.blocks.ids, batch.positions, tap)
            logits = self.teacher.lm_head(_picked(states, batch.blocks.asked_at)).float()
        before, after = len(FIRST_PREFIX), prefix.shape[1]
        taught = [tap[layer] for layer in _TAUGHT_LAYERS]
        return [torch.cat([x[:, before : after - 1], x[:, after:]], 1).bfloat16() for x in taught], logits


def _times(rng: np.random.Generator, seconds: float, count: int) -> list[float]:
    """Return the middle of each pair of frames, spaced evenly in one of the ways in which a reader takes frames."""
    space = seconds / (count - rng.random())
    first = space * rng.uniform(0, 0.5) * (rng.random() < 0.5)
    return [first + space * (2 * pair + 0.5) for pair in range(count // 2)]


def _picked(states: Tensor, places: Tensor) -> Tensor:
    """Return the states [B, N, D] of the questions' tokens [B, N, Q, D] at a place of each [B, N]."""
    return states.gather(2, places[..., None, None].expand(-1, -1, 1, states.shape[-1]))[:, :, 0]


def begin_from(model: Any, teacher: Any) -> None:
    """Fill the decoder with the first toy's parameters where both have them.

    A narrower MLP takes the neurons with the largest weights; the norms of queries and keys begin with the sizes that
    the first toy's have on states of unit variance; biases, which Qwen3-VL lacks, are left out.
    """
    ours, theirs = model.model.language_model, teacher.model.language_model
    with torch.no_grad():
        ours.embed_tokens.weight.copy_(theirs.embed_tokens.weight)
        model.lm_head.weight.copy_(teacher.lm_head.weight)
        ours.norm.weight.copy_(theirs.norm.weight)
        for own, layer in zip(ours.layers, theirs.layers, strict=True):
            for name in ("input_layernorm", "post_attention_layernorm"):
                getattr(own, name).weight.copy_(getattr(layer, name).weight)
            for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
                getattr(own.self_attn, name).weight.copy_(getattr(layer.self_attn, name).weight)
            for name in ("q", "k"):
                scaled = getattr(layer.self_attn, f"{name}_proj").weight * layer.input_layernorm.weight
                getattr(own.self_attn, f"{name}_norm").weight.fill_(float(scaled.square().sum(1).mean().sqrt()))
            mlp = layer.mlp
            size = mlp.gate_proj.weight.norm(dim=1) * mlp.up_proj.weight.norm(dim=1) * mlp.down_proj.weight.norm(dim=0)
            left = size.sort(descending=True, stable=True).indices[: own.mlp.gate_proj.weight.shape[0]].sort().values
            own.mlp.gate_proj.weight.copy_(mlp.gate_proj.weight[left])
            own.mlp.up_proj.weight.copy_(mlp.up_proj.weight[left])
            own.mlp.down_proj.weight.copy_(mlp.down_proj.weight[:, left])


def question_loss(
    model: Any, rank_head: nn.Module, phase: TaughtPhase, batch: TaughtBatch
) -> tuple[Tensor, dict[str, list[float]]]:
    """Cross-entropy of the answer, of the end after it, and of what the phase adds."""
    blocks, placed = batch.blocks, batch.layout.placed
    words = model.model.language_model.embed_tokens(batch.layout.ids)
    prefix = placed(words, batch.levels[0])
    levels = [placed(torch.zeros_like(words), level) for level in batch.levels[1:]]
    tap: list[Tensor] = []
    states = answer_states(model, prefix, blocks.ids, batch.layout.positions, tap, levels)
    figures: dict[str, list[float]] = {}

    def loss_at(places: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:  # [B, N] each
        logits = model.lm_head(_picked(states, places)).float().flatten(0, 1)
        return F.cross_entropy(logits, wanted.flatten()), logits

    loss, logits = loss_at(blocks.asked_at, blocks.answers)
    right = logits.argmax(-1) == blocks.answers.flatten()
    end = torch.full_like(blocks.answers, VOCABULARY["<|im_end|>"])
    loss = loss + _END_WEIGHT * loss_at(blocks.asked_at + 1, end)[0]
    for k in range(2 if phase.hint_weight else 0):
        if (blocks.hints[..., k] >= 0).any():
            loss = loss + phase.hint_weight * loss_at(blocks.hints_at[..., k], blocks.hints[..., k])[0]
    at = batch.layout.index
    seen = torch.isin(at, batch.layout.visual).nonzero()[:, 1].view(len(at), -1)  # [B, V'] places of visual tokens
    if phase.rank_weight:
        ranked = rank_head(_rows(tap[_RANK_LAYER], seen)).float().flatten(0, 1)
        ranks, weights = batch.ranks.flatten(), torch.ones(ranked.shape[-1])
        weights[0] = _BACKGROUND_WEIGHT
        loss = loss + phase.rank_weight * F.cross_entropy(ranked, ranks, weight=weights)
        figures["rank"] = [float((ranked.argmax(-1) == ranks)[ranks > 0].float().mean())]
    if phase.answers_weight and batch.logits is not None:
        wanted = batch.logits.flatten(0, 1).log_softmax(-1)
        far = F.kl_div(logits.log_softmax(-1), wanted, log_target=True, reduction="batchmean")
        loss, figures["far answers"] = loss + phase.answers_weight * far, [float(far.detach())]
    if phase.states_weight:
        far = torch.zeros(())
        for layer, shown in zip(_TAUGHT_LAYERS, batch.states, strict=True):
            own = torch.cat([_rows(tap[layer], seen), tap[layer][:, prefix.shape[1] :]], 1)
            far = far + F.mse_loss(own, shown.float()) / shown.float().var() / len(_TAUGHT_LAYERS)
        loss, figures["far states"] = loss + phase.states_weight * far, [float(far.detach())]
    for kind, hit in zip((kind for row in batch.types for kind in row), right.tolist(), strict=True):
        figures.setdefault(kind, []).append(float(hit))
    return loss, figures


def _rows(states: Tensor, places: Tensor) -> Tensor:
    """Return the states [B, P, D] at places [B, V]."""
    return states.gather(1, places[..., None].expand(-1, -1, states.shape[-1]))
