"""The second toy's recipe: what it is built of, what each phase shows it and what it loses by a wrong answer."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from prunevid_qwen.loading import bundled_model
from research.bundled_model.checkpoint import TrainingState
from research.bundled_model.phases import VisionPhase
from research.bundled_qwen3vl.architecture import build_model
from research.bundled_qwen3vl.questions import TaughtBatches, begin_from, question_loss
from research.bundled_qwen3vl.vision import TaughtVisionBatches, vision_heads, vision_loss


class SecondToy:
    """How the toy of Qwen3-VL's architecture is trained: beside the first one."""

    @cached_property
    def teacher(self) -> Any:
        """The first toy, as it is shipped."""
        from transformers import Qwen2_5_VLForConditionalGeneration

        model = Qwen2_5_VLForConditionalGeneration.from_pretrained(bundled_model(), dtype=torch.float32)
        return model.eval().requires_grad_(False)

    def build(self, seed: int) -> Any:
        """Make the library's model with fresh parameters."""
        return build_model(seed)

    def heads(self, model: Any) -> nn.ModuleDict:
        """Make what the vision tower is trained through and what is thrown away in the end."""
        return vision_heads(model.config.text_config.hidden_size, len(model.model.visual.deepstack_visual_indexes))

    def load(self, model: Any, parameters: dict[str, Tensor], seed: int) -> None:
        """Fill the model."""
        model.load_state_dict(parameters)

    def change(self, model: Any, phase: Any, seed: int) -> None:
        """Begin the decoder with the first toy's parameters."""
        begin_from(model, self.teacher)

    def batches(self, phase: Any, key: tuple[int, int], model: Any) -> Dataset[Any]:
        """Make the batches of a phase."""
        if isinstance(phase, VisionPhase):
            return TaughtVisionBatches(phase, key, self.teacher)
        return TaughtBatches(phase, key, model.model.visual, self.teacher)

    def loss(self, state: TrainingState, phase: Any, batch: Any) -> tuple[Tensor, dict[str, list[float]]]:
        """Return the loss of a batch, and its figures for the curve."""
        if isinstance(phase, VisionPhase):
            return vision_loss(state.model.model.visual, state.heads, batch)
        return question_loss(state.model, state.rank_head, phase, batch)
