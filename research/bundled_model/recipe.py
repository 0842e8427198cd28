"""The first toy's recipe: what it is built of, what each phase shows it and what it loses by a wrong answer."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from prunevid_qwen.moving_shapes import COLORS, DIRECTIONS, SHAPES
from research.bundled_model.architecture import build_model, deepen
from research.bundled_model.batches import QuestionBatch, QuestionBatches, VisionBatch, VisionBatches
from research.bundled_model.checkpoint import TrainingState
from research.bundled_model.fast_forward import answer_states, vision_features
from research.bundled_model.phases import QuestionPhase, VisionPhase
from research.bundled_model.sequence import AFTER_VIDEO, PREFIX
from research.bundled_model.tokenizer import VOCABULARY

_BACKGROUND_WEIGHT = 0.25  # of a background token in the vision tower's loss: most tokens are background
_RANK_LAYER = 1  # words are matched with visual tokens from the third layer on
_END_WEIGHT = 0.05  # of the token after the answer


class FirstToy:
    """How the toy of Qwen2.5-VL's architecture is trained."""

    def build(self, seed: int) -> Any:
        """Make the library's model with fresh parameters."""
        return build_model(seed)

    def heads(self, model: Any) -> nn.ModuleDict:
        """Make what the vision tower is trained through and what is thrown away in the end."""
        width = model.config.text_config.hidden_size
        sizes = {"colors": len(COLORS), "shapes": len(SHAPES), "directions": len(DIRECTIONS)}
        return nn.ModuleDict({name: nn.Linear(width, size + 1) for name, size in sizes.items()})

    def load(self, model: Any, parameters: dict[str, Tensor], seed: int) -> None:
        """Fill the model; it gets as many decoder layers as the parameters have."""
        layers = [int(name.split(".")[3]) for name in parameters if name.startswith("model.language_model.layers.")]
        deepen(model, 1 + max(layers), seed)
        model.load_state_dict(parameters)

    def change(self, model: Any, phase: Any, seed: int) -> None:
        """Do what a phase without steps does."""
        deepen(model, phase.layers, seed)

    def batches(self, phase: Any, key: tuple[int, int], model: Any) -> Dataset[Any]:
        """Make the batches of a phase."""
        if isinstance(phase, VisionPhase):
            return VisionBatches(phase, key)
        return QuestionBatches(phase, key, model.model.visual)

    def loss(self, state: TrainingState, phase: Any, batch: Any) -> tuple[Tensor, dict[str, list[float]]]:
        """Return the loss of a batch, and its figures for the curve."""
        if isinstance(phase, VisionPhase):
            return _vision_loss(state, batch)
        return _question_loss(state, batch, phase)


def _vision_loss(state: TrainingState, batch: VisionBatch) -> tuple[Tensor, dict[str, list[float]]]:
    """Cross-entropy of colour, shape and direction in every merged token."""
    height, width = batch.grid
    features = vision_features(state.model.model.visual, batch.patches, height, width)
    loss, figures = torch.zeros(()), {}
    for name, head in state.heads.items():
        logits = head(features).float().flatten(0, 1)
        labels = getattr(batch, name).flatten()
        weights = torch.ones(logits.shape[-1])
        weights[0] = _BACKGROUND_WEIGHT
        loss = loss + F.cross_entropy(logits, labels, weight=weights)
        right = logits.argmax(-1) == labels
        figures[name] = [float(right[labels > 0].float().mean())]
    figures["background"] = [float(right[labels == 0].float().mean())]
    return loss, figures


def _question_loss(
    state: TrainingState, batch: QuestionBatch, phase: QuestionPhase
) -> tuple[Tensor, dict[str, list[float]]]:
    """Cross-entropy of the answer, a little of the end of the turn after it, and of what the phase adds."""
    embed, blocks = state.model.model.language_model.embed_tokens, batch.blocks
    videos, count, _ = blocks.ids.shape
    around = [embed(torch.tensor(ids)).expand(videos, -1, -1) for ids in (PREFIX, AFTER_VIDEO)]
    prefix = torch.cat([around[0], batch.features, around[1]], 1)
    tap: list[Tensor] = []
    states = answer_states(state.model, prefix, blocks.ids, batch.positions, tap)

    def loss_at(places: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:  # [B, N] each
        b, n = torch.meshgrid(torch.arange(videos), torch.arange(count), indexing="ij")
        logits = state.model.lm_head(states[b, n, places]).float().flatten(0, 1)
        return F.cross_entropy(logits, wanted.flatten()), logits.argmax(-1) == wanted.flatten()

    loss, right = loss_at(blocks.asked_at, blocks.answers)
    end = torch.full_like(blocks.answers, VOCABULARY["<|im_end|>"])
    loss = loss + _END_WEIGHT * loss_at(blocks.asked_at + 1, end)[0]
    figures: dict[str, list[float]] = {}
    if phase.hint_weight:
        for k in range(2):
            if (blocks.hints[..., k] >= 0).any():
                loss = loss + phase.hint_weight * loss_at(blocks.hints_at[..., k], blocks.hints[..., k])[0]
    if phase.rank_weight:
        logits = (
            state.rank_head(tap[_RANK_LAYER][:, len(PREFIX) : prefix.shape[1] - len(AFTER_VIDEO)]).float().flatten(0, 1)
        )
        ranks, weights = batch.ranks.flatten(), torch.ones(logits.shape[-1])
        weights[0] = _BACKGROUND_WEIGHT
        loss = loss + phase.rank_weight * F.cross_entropy(logits, ranks, weight=weights)
        figures["rank"] = [float((logits.argmax(-1) == ranks)[ranks > 0].float().mean())]
    for kind, hit in zip((kind for row in batch.types for kind in row), right.tolist(), strict=True):
        figures.setdefault(kind, []).append(float(hit))
    return loss, figures
