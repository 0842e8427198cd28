"""GlimpseRecipe: everything that decides what a training run comes to, in one flat, frozen, validated dataclass.

Imports no torch: the command line reads names, defaults and sentences from here. Defaults are those of GlimpsePrune
(arXiv 2508.01548) for the 7B. Each says its source: the paper, the authors' configs and training script, transformers'
Trainer where they set nothing, or us.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, get_type_hints

from prunevid_qwen.config.option_checks import check_count, checked_names, unknown
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.training.glimpse.recipe_values import check_number, typed
from prunevid_qwen.training.glimpse.recipe_yaml import YamlRecipe

CHOICES: dict[str, tuple[str, ...]] = {
    "dtype": ("auto", "bfloat16", "float16", "float32"),
    "precision": ("bf16", "no"),
}
FREE = ("save_every", "workers")
"""Options that change nothing of what comes out: a run that goes on may have others than it began with."""

_GQA: dict[str, Any] = {
    "kind": "visual_cot",
    "path": "datas/cot/gqa_cot_train.jsonl",
    "images": "datas/cot",
    "samples": 20_000,
    "seed": 42,
}


@checked_names("a recipe has")
@dataclass(frozen=True)
class GlimpseRecipe(YamlRecipe):
    """How a glimpse predictor is trained. Ranges are checked on construction.

    Args:
        model_path: the frozen base model: a hub id, a folder, or "bundled". Paper: Qwen2.5-VL-7B first of all.
        dtype: of the frozen model's weights: "auto" (the checkpoint's), "bfloat16", "float16" or "float32". Authors:
            bfloat16. The bundled model's are read as float32 under "auto".
        attn_implementation: of the frozen model, or None for the library's choice (ours). Authors: flash_attention_2.
        data: what is trained on, options of `DataSpec` by name. Authors: 20,000 random records of GQA, seed 42.
        eval_data: what is looked at during training and never trained on, in the same way; {} is nothing (authors).
        skip_bad: go on without the records that the checker finds unusable; False refuses to train (ours).
        reduce_layer: decoder layer after which tokens are dropped, from 0, or None for the paper's two thirds of the
            depth: ceil(2/3 layers) - 1.
        selected_layers: decoder layers whose attention the predictor reads, ascending, none above ``reduce_layer``; or
            None for ``reduce_layer`` alone (authors).
        selected_visual_layers: blocks of the vision encoder that the predictor reads, in its blocks' order; or None for
            the encoder's four blocks of full attention from the last to the first (authors), and where it has not four,
            for four at equal distances (ours); of a CLIP encoder for those before them, 22, 16, 10, 4 (authors).
        width: channels of the predictor, E, at least 1, a multiple of ``vip_heads``. Paper: 256.
        condition: channels that each vision block is projected to, F, at least 1; width + condition is a multiple of
            four times ``vip_heads``. Paper: 512.
        vip_heads: attention heads of the predictor, at least 1. Authors: 4.
        le_dropout: share of a glimpse vector's channels dropped in training, in [0, 1). Authors' training script: 0.1.
        lm_weight: of the answers' cross-entropy, at least 0. Authors: 1.
        dice_weight: of the Dice loss against the boxes, at least 0. Authors: 1.
        bce_weight: of the binary cross-entropy against the boxes, at least 0. Authors: 0.1.
        learning_rate: its peak, above 0; it falls to 0 along a cosine. Authors: 1e-4.
        betas: of AdamW, each in [0, 1). Trainer's default: 0.9 and 0.999.
        epsilon: of AdamW, above 0. Trainer's default: 1e-8.
        weight_decay: of AdamW, at least 0. Trainer's default: 0.
        warmup_ratio: share of the steps in which the learning rate rises from 0, in [0, 1). Authors: 0.1.
        epochs: passes over the data, above 0, where ``steps`` is None. Authors: 1.
        steps: updates, at least 1, or None for ``epochs`` of the data; the last of them is filled up from the next pass
            (ours).
        effective_batch: samples of an update over all processes, at least 1. Authors: 16.
        per_device_batch: samples of one forward, a divisor of ``effective_batch``. Authors: 1.
        max_grad_norm: length to which gradients are clipped, above 0. Authors: 1.
        precision: "bf16" computes what is trained under bfloat16 autocast, "no" in float32. Master weights and the
            optimizer are float32 either way; the authors keep both in bfloat16, where steps of 1e-4 are often lost.
        seed: of the first weights, the order of the data and the dropout, at least 0. Authors: 42.
        save_every: steps between checkpoints, at least 1; the last step always saves. Authors: 500.
        log_every: steps that a line of the curve is the mean of, at least 1. Authors: 10.
        eval_every: steps between evaluations, at least 1, or None for one at the end alone (ours).
        eval_samples: how many records of ``eval_data`` are looked at, its first ones, at least 1, or None for all
            (ours).
        eval_batch: samples of one forward of an evaluation, at least 1 (ours).
        max_pixels: pixels of a picture at most, at least 784, or None for the model's own limit, and for a LLaVA, whose
            processor gives pictures their size. Authors: 12,845,056, which is 16,384 tokens.
        workers: processes that read data beside training, at least 0; 0 reads between the steps (ours).

    Raises:
        ConfigError: a value is outside its range or of the wrong type.
    """

    CALLED: ClassVar[str] = "a recipe"

    model_path: str = "Qwen/Qwen2.5-VL-7B-Instruct"
    dtype: str = "bfloat16"
    attn_implementation: str | None = None
    data: Mapping[str, Any] = field(default_factory=_GQA.copy)
    eval_data: Mapping[str, Any] = field(default_factory=dict)
    skip_bad: bool = False
    reduce_layer: int | None = None
    selected_layers: tuple[int, ...] | None = None
    selected_visual_layers: tuple[int, ...] | None = None
    width: int = 256
    condition: int = 512
    vip_heads: int = 4
    le_dropout: float = 0.1
    lm_weight: float = 1.0
    dice_weight: float = 1.0
    bce_weight: float = 0.1
    learning_rate: float = 1e-4
    betas: tuple[float, ...] = (0.9, 0.999)
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    warmup_ratio: float = 0.1
    epochs: float = 1.0
    steps: int | None = None
    effective_batch: int = 16
    per_device_batch: int = 1
    max_grad_norm: float = 1.0
    precision: str = "bf16"
    seed: int = 42
    save_every: int = 500
    log_every: int = 10
    eval_every: int | None = None
    eval_samples: int | None = None
    eval_batch: int = 1
    max_pixels: int | None = 12_845_056
    workers: int = 0

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for each in dataclasses.fields(self):
            object.__setattr__(self, each.name, typed(each.name, getattr(self, each.name), hints[each.name]))
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ConfigError(unknown(f"{name} is one of", getattr(self, name), allowed))
        for name, least in _LEAST.items():
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name), least)
        for name in _SHARES:
            check_number(name, getattr(self, name), below=1)
        for name in _AT_LEAST_0:
            check_number(name, getattr(self, name))
        for name in _ABOVE_0:
            check_number(name, getattr(self, name), least=None)
        for beta in self.betas:
            check_number("each of betas", beta, below=1)
        if len(self.betas) != 2:
            raise ConfigError(f"betas are two numbers, got {list(self.betas)}")
        if not self.model_path:
            raise ConfigError("model_path is a hub id, a folder or 'bundled', got ''")
        if not self.data:
            raise ConfigError("data says what to train on: give it at least a kind, as in the recipe 'glimpse'")
        if self.effective_batch % self.per_device_batch:
            raise ConfigError(
                f"effective_batch={self.effective_batch} is not a multiple of "
                f"per_device_batch={self.per_device_batch}: every forward takes as many samples"
            )
        if not (self.lm_weight or self.dice_weight or self.bce_weight):
            raise ConfigError("lm_weight, dice_weight and bce_weight are all 0: nothing would be learnt")
        if self.eval_every is not None and not self.eval_data:
            raise ConfigError(f"eval_every={self.eval_every}, but eval_data does not say what to evaluate on")


_LEAST: dict[str, int] = {
    **dict.fromkeys(("reduce_layer", "seed", "workers"), 0),
    **dict.fromkeys(("width", "condition", "vip_heads", "steps", "effective_batch", "per_device_batch"), 1),
    **dict.fromkeys(("save_every", "log_every", "eval_every", "eval_samples", "eval_batch"), 1),
    "max_pixels": 28 * 28,
}
_SHARES = ("le_dropout", "warmup_ratio")
_AT_LEAST_0 = ("lm_weight", "dice_weight", "bce_weight", "weight_decay")
_ABOVE_0 = ("learning_rate", "epsilon", "epochs", "max_grad_norm")
