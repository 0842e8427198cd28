"""GlimpsePlusRecipe: everything that decides what a GlimpsePrune+ run comes to, in one frozen, validated dataclass.

Imports no torch. Defaults are the published ones for Qwen2.5-VL-7B (arXiv 2508.01548, appendix, and its authors'
configs); recipes/glimpse_plus.yaml says of each where it is from.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, get_type_hints

from prunevid_qwen.config.option_checks import check_count, check_share, checked_names, unknown
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.training.glimpse.recipe import CHOICES, GlimpseRecipe
from prunevid_qwen.training.glimpse.recipe_values import check_number, typed
from prunevid_qwen.training.glimpse.recipe_yaml import YamlRecipe

REWARDS = ("exact_match", "judge")
OWN_OPTIONS = ("reward", "only")
"""What an entry of the data has beside the options of `DataSpec`."""

FREE = ("save_every", "draw_batch")
"""Options that change nothing of what comes out but by chance; a run that goes on may have others."""

_SHORT = "{question}\nAnswer the question using a single word or phrase."
_SETS = (
    "cub", "docvqa", "dude", "flickr30k", "gqa", "infographicsvqa", "openimages", "sroie", "textcap", "textvqa",
    "visual7w", "vsr",
)  # fmt: skip


def _published() -> tuple[dict[str, Any], ...]:
    entries = []
    for name in _SETS:
        own = {
            "kind": "visual_cot", "path": f"datas/cot/{name}_cot_train.jsonl", "images": "datas/cot",
            "samples": 1000, "seed": 42,
        }  # fmt: skip
        entries.append({**own, "reward": "judge"})
        if name != "flickr30k":  # whole sentences: there is no short form of them
            entries.append({**own, "prompt": _SHORT, "reward": "exact_match"})
    return tuple(entries)


@checked_names("a GlimpsePrune+ recipe has")
@dataclass(frozen=True)
class GlimpsePlusRecipe(YamlRecipe):
    """How a model learns to answer from boxes, and how its glimpse predictor is trained afterwards.

    Args:
        model_path: what is trained: a hub id, a folder, or "bundled".
        dtype: of its weights; LoRA's are float32. Authors: bfloat16. "auto" reads the bundled model's as float32.
        attn_implementation: of the model, or None for the library's choice (ours). Authors: flash_attention_2.
        data: a list of what is trained on: options of `DataSpec` by name; ``reward``, one of ``REWARDS``, by which the
            entry's answers are scored (exact_match where it is left out); ``only``, a text without which a question is
            left out. Authors: 23 entries of 1,000 records.
        eval_data: the same, of records that nothing is trained on; [] measures nothing (authors).
        skip_bad: go on without the records that the checker finds unusable; False refuses to train.
        pruning_layer: decoder layer after which all tokens outside the boxes are dropped, from 0, or None for the
            paper's: ceil(2/3 layers) - 1.
        max_keep_ratio: share of the visual tokens that boxes may keep at most, in (0, 1], or None for no cap (authors).
        lora_rank: of the adapters on every Linear of the decoder's layers, at least 1. Authors: 32 (their text: 64).
        lora_alpha: above 0. Authors: 64.
        lora_dropout: in [0, 1). Authors: 0.05.
        group: answers drawn to each question, at least 2. Authors: 4.
        temperature: they are drawn at, above 0. Authors: 1.
        max_new_tokens: of an answer, at least 1. Authors: 128.
        beta: weight of the KL divergence from the model without adapters, at least 0. Authors: 0.04.
        questions_per_step: of an update over all processes, at least 1. Authors: 8.
        per_device_batch: answers of one forward with gradients, at least 1. Authors: 1.
        draw_batch: answers drawn at once, at least 1, or None for ``per_device_batch``.
        learning_rate: its peak, above 0; it falls to 0 along a cosine. Authors: 1e-4.
        warmup_ratio: share of the steps in which it rises from 0, in [0, 1). Authors: 0.1.
        weight_decay: of AdamW, at least 0. Trainer's default: 0.
        max_grad_norm: length to which gradients are clipped, above 0. Trainer's default: 1.
        epochs: passes over the data, above 0, where ``steps`` is None. Authors: 1.
        steps: updates, at least 1, or None for ``epochs``.
        precision: "bf16" computes under bfloat16 autocast, "no" in the weights' own dtype.
        seed: of adapters, order and drawing, at least 0. Authors: 42.
        save_every: steps between checkpoints, at least 1.
        log_every: steps that a line of the curve is the mean of, at least 1.
        eval_answers: drawn to each record of ``eval_data``, at least 1.
        max_pixels: pixels of a picture at most, at least 784, or None for the model's own limit. Ours: 5,600 tokens,
            so that no prompt is longer than the 6,000 tokens at which the authors stop.
        glimpse: options of `GlimpseRecipe` for the predictor of the merged model; {} is the published recipe.

    Raises:
        ConfigError: a value is outside its range or of the wrong type.
    """

    CALLED: ClassVar[str] = "a GlimpsePrune+ recipe"

    model_path: str = "Qwen/Qwen2.5-VL-7B-Instruct"
    dtype: str = "bfloat16"
    attn_implementation: str | None = None
    data: tuple[Mapping[str, Any], ...] = field(default_factory=_published)
    eval_data: tuple[Mapping[str, Any], ...] = ()
    skip_bad: bool = False
    pruning_layer: int | None = None
    max_keep_ratio: float | None = None
    lora_rank: int = 32
    lora_alpha: int = 64
    lora_dropout: float = 0.05
    group: int = 4
    temperature: float = 1.0
    max_new_tokens: int = 128
    beta: float = 0.04
    questions_per_step: int = 8
    per_device_batch: int = 1
    draw_batch: int | None = None
    learning_rate: float = 1e-4
    warmup_ratio: float = 0.1
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    epochs: float = 1.0
    steps: int | None = None
    precision: str = "bf16"
    seed: int = 42
    save_every: int = 100
    log_every: int = 1
    eval_answers: int = 4
    max_pixels: int | None = 4_390_400
    glimpse: Mapping[str, Any] = field(default_factory=dict)

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
        for name in ("lora_dropout", "warmup_ratio"):
            check_number(name, getattr(self, name), below=1)
        for name in ("beta", "weight_decay"):
            check_number(name, getattr(self, name))
        for name in ("temperature", "learning_rate", "max_grad_norm", "epochs"):
            check_number(name, getattr(self, name), least=None)
        if self.max_keep_ratio is not None:
            check_share("max_keep_ratio", self.max_keep_ratio)
        if not self.model_path:
            raise ConfigError("model_path is a hub id, a folder or 'bundled', got ''")
        if not self.data:
            raise ConfigError(
                "data lists what to train on: give it at least one entry, as in the recipe 'glimpse_plus'"
            )
        for entry in (*self.data, *self.eval_data):
            if entry.get("reward", REWARDS[0]) not in REWARDS:
                raise ConfigError(unknown("the reward of an entry of data is one of", entry["reward"], REWARDS))
        if self.questions_per_step * self.group % self.per_device_batch:
            raise ConfigError(
                f"a step has {self.questions_per_step} questions x {self.group} answers, which is no multiple of "
                f"per_device_batch={self.per_device_batch}: every forward takes as many answers"
            )
        if self.glimpse.get("precision", self.precision) != self.precision or "model_path" in self.glimpse:
            raise ConfigError(
                "glimpse has the precision of the whole run and trains on the merged model: leave precision and "
                "model_path out of it"
            )
        self.glimpse_recipe(self.model_path)  # refused now, not after a day of reinforcement

    @property
    def needs_judge(self) -> bool:
        """Whether an entry's answers are scored by a judge."""
        return any(entry.get("reward") == "judge" for entry in (*self.data, *self.eval_data))

    def glimpse_recipe(self, model_path: str) -> GlimpseRecipe:
        """Return the recipe of the predictor for the model at ``model_path``.

        Raises:
            ConfigError: an option of ``glimpse`` is unknown or bad.
        """
        shared = ("dtype", "attn_implementation", "precision", "seed")
        options = {**{name: getattr(self, name) for name in shared}, **self.glimpse, "model_path": model_path}
        try:
            return GlimpseRecipe.from_dict(options)
        except ConfigError as error:
            raise ConfigError(f"glimpse: {error}") from None

    def accumulation(self, processes: int) -> int:
        """Count the forwards with gradients of one process and step.

        Raises:
            ConfigError: the answers of a step cannot be shared equally.
        """
        answers, width = self.questions_per_step * self.group, self.per_device_batch * processes
        if answers % width:
            raise ConfigError(
                f"{processes} processes cannot share {answers} answers in forwards of {self.per_device_batch}: choose "
                f"questions_per_step x group as a multiple of {width}"
            )
        return answers // width


_LEAST: dict[str, int] = {
    **dict.fromkeys(("pruning_layer", "seed"), 0),
    **dict.fromkeys(("lora_rank", "lora_alpha", "max_new_tokens", "questions_per_step", "per_device_batch"), 1),
    **dict.fromkeys(("draw_batch", "steps", "save_every", "log_every", "eval_answers"), 1),
    "group": 2,
    "max_pixels": 28 * 28,
}
