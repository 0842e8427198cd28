"""Small GlimpsePrune+ runs of the bundled model: what their tests share."""

from __future__ import annotations

from typing import Any

from prunevid_qwen.training.glimpse_plus.recipe import GlimpsePlusRecipe

_SHAPES = {"kind": "moving_shapes", "conditions": {"plain": 1.0}, "choice_share": 0.0, "types": ["last", "count"]}
PLUS: dict[str, Any] = {
    "model_path": "bundled", "dtype": "float32", "precision": "no",
    "data": [{**_SHAPES, "samples": 40, "only": "last"}],
    "eval_data": [{**_SHAPES, "samples": 2, "held_out": True}],
    "pruning_layer": 0, "lora_rank": 4, "lora_alpha": 8, "lora_dropout": 0.0, "max_new_tokens": 3,
    "group": 2, "questions_per_step": 2, "per_device_batch": 2, "draw_batch": 4, "learning_rate": 1e-3,
    "warmup_ratio": 0.0, "steps": 3, "save_every": 2, "eval_answers": 2,
    "glimpse": {"width": 16, "condition": 16, "steps": 1, "effective_batch": 2,
                "data": {"kind": "moving_shapes", "samples": 4, "conditions": {"plain": 1.0}}},
}  # fmt: skip


def plus(**changes: Any) -> GlimpsePlusRecipe:
    return GlimpsePlusRecipe.from_dict({**PLUS, **changes})
