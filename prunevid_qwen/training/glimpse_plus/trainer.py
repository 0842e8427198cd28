"""trl's GRPOTrainer with the pruned policy inside. Imported only where trl, peft and datasets are installed.

trl does all that makes GRPO: groups, rewards, advantages, the loss and its KL term, accumulation, optimizer, schedule,
checkpoints, several processes. Three places are ours, because trl 1.16 cannot serve them:

* drawing, by its ``rollout_func``: trl's own calls a processor of the model, which needs torchvision, and knows
  pictures, not videos;
* `_get_per_token_logps_and_entropies`: trl's own runs the head over a sequence of the prompt's length, and pruning
  makes it shorter; it also turns the cache off, without which an answer sees what stage 3 took away, and passes no
  pixels of videos;
* which records a batch is of: trl hands texts and ids alone to both, and a video belongs to them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.training.glimpse_plus.entries import PromptReader
from prunevid_qwen.training.glimpse_plus.policy import draw, score
from prunevid_qwen.training.glimpse_plus.recipe import GlimpsePlusRecipe

GAP = "policy_gap"
"""Metric: the largest difference, in nats, between a token's log-probability when it is drawn and when it is learnt."""


class PrunedGRPOTrainer(GRPOTrainer):
    """GRPO on answers that are drawn and learnt under box pruning.

    Args:
        reader: of the records.
        pruning: config under which answers are drawn.
        draw_batch: answers drawn at once.
        trl_arguments: what `GRPOTrainer` takes, but the data set and the drawing.
    """

    def __init__(self, *, reader: PromptReader, pruning: PruneVidConfig, draw_batch: int, **trl_arguments: Any) -> None:
        self.reader, self.pruning, self.draw_batch = reader, pruning, draw_batch
        self.records: list[int] = []  # of the batch at hand
        self.drawn: Tensor | None = None  # [B, C] log-probabilities of that batch when it was drawn
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="You are using 'rollout_func'")
            super().__init__(
                train_dataset=_data_set(reader),
                processing_class=reader.preprocessor.tokenizer,
                rollout_func=lambda _prompts, trainer: trainer.draw_batches(),
                **trl_arguments,
            )
        self.remove_callback(PrinterCallback)

    @property
    def base(self) -> Any:
        """The stock model inside all wrappers."""
        return self.accelerator.unwrap_model(self.model).get_base_model()

    def draw_batches(self) -> dict[str, list[Any]]:
        """Draw an answer to each record of the batch at hand, without dropout."""
        model = self.accelerator.unwrap_model(self.model)
        out: dict[str, list[Any]] = {"prompt_ids": [], "completion_ids": [], "logprobs": []}
        was = model.training
        model.eval()
        try:
            for start in range(0, len(self.records), self.draw_batch):
                prompts = self.reader.prompts(self.records[start : start + self.draw_batch])
                with self.accelerator.autocast():
                    drawn = draw(
                        model,
                        self.base,
                        prompts.to(self.accelerator.device),
                        self.pruning,
                        longest=self.max_completion_length,
                        temperature=self.temperature,
                        ends=self.eos_token_ids,
                        pad=self._tokenizer.pad_token_id,
                    )
                out["prompt_ids"] += [prompts.ids(row) for row in range(len(drawn))]
                out["completion_ids"] += [each.ids for each in drawn]
                out["logprobs"] += [each.logps for each in drawn]
        finally:
            model.train(was)
        return out

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self.records = [each["record"] for each in inputs]
        out: dict[str, Any] = super()._generate_and_score_completions(inputs)
        out["records"] = torch.tensor(self.records, device=self.accelerator.device)  # shuffled and cut with the rest
        return out

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        self.records, self.drawn = inputs["records"].tolist(), inputs["sampling_per_token_logps"]
        try:
            loss: Tensor = super()._compute_loss(model, inputs)
            return loss
        finally:
            self.drawn = None

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        **_: Any,
    ) -> tuple[Tensor, Tensor | None, None]:
        ids, valid = input_ids[:, -logits_to_keep:], attention_mask[:, -logits_to_keep:].bool()
        answers = [row[own] for row, own in zip(ids, valid, strict=True)]
        size, parts = batch_size or len(answers), []
        for start in range(0, len(answers), size):
            prompts = self.reader.prompts(self.records[start : start + size]).to(self.accelerator.device)
            with self.accelerator.autocast():
                found = score(model, self.base, prompts, answers[start : start + size], self.pruning, self.temperature)
            parts.append([torch.nn.functional.pad(each, (0, logits_to_keep - each.shape[1])) for each in found])
        logps, entropies = (torch.cat(each) for each in zip(*parts, strict=True))
        if self.drawn is not None:
            gap = ((logps.detach() - self.drawn).abs() * valid).max()
            self._metrics["train"][GAP].append(self.accelerator.gather(gap).max().item())
        return logps, entropies if compute_entropy else None, None

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Write no card into checkpoints: they are for going on, and nobody publishes them."""


class Curve(TrainerCallback):
    """Hands on what is logged, and stops between two steps when asked to.

    Args:
        add: given each line.
        asked_to_stop: asked after each step.
        tell: told (step, of how many, newest figures).
    """

    def __init__(
        self,
        add: Callable[[dict[str, Any]], None],
        asked_to_stop: Callable[[], int],
        tell: Callable[[int, int, Mapping[str, float]], None],
    ) -> None:
        self.add, self.asked_to_stop, self.tell = add, asked_to_stop, tell

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Add a line."""
        if not logs or "reward" not in logs:
            return
        line = {"step": state.global_step, **{ours: logs.get(theirs) for ours, theirs in _FIGURES.items()}}
        self.add({name: round(value, 8) if isinstance(value, float) else value for name, value in line.items()})
        self.tell(state.global_step, state.max_steps, line)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Save and stop if that was asked for."""
        self.tell(state.global_step, state.max_steps, {})
        if self.asked_to_stop():
            control.should_save = control.should_training_stop = True


_FIGURES = {
    "reward": "reward",
    "reward_std": "reward_std",
    "groups_without_signal": "frac_reward_zero_std",
    "kl": "kl",
    "entropy": "entropy",
    "policy_gap": GAP,
    "tokens": "completions/mean_length",
    "cut_off": "completions/clipped_ratio",
    "loss": "loss",
    "grad_norm": "grad_norm",
    "lr": "learning_rate",
    "seconds": "step_time",
}
"""Of a line of the curve: our name -> trl's."""


def grpo_config(recipe: GlimpsePlusRecipe, folder: str, processes: int, cpu: bool) -> GRPOConfig:
    """Write a recipe as trl's config: the published loss, which trl calls "grpo".

    Raises:
        ConfigError: the processes cannot share a step.
    """
    return GRPOConfig(
        output_dir=folder,
        loss_type="grpo",  # mean over an answer's tokens, then over answers
        scale_rewards="group",  # (r - mean) / (std + 1e-4)
        importance_sampling_level="token",
        num_iterations=1,
        beta=recipe.beta,
        use_bias_correction_kl=False,  # the published gradient is that of k3 itself; trl turns this on by default
        num_generations=recipe.group,
        temperature=recipe.temperature,
        top_p=1.0,
        top_k=0,
        max_completion_length=recipe.max_new_tokens,
        per_device_train_batch_size=recipe.per_device_batch,
        gradient_accumulation_steps=recipe.accumulation(processes),
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=recipe.warmup_ratio,
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.max_grad_norm,
        num_train_epochs=recipe.epochs,
        max_steps=-1 if recipe.steps is None else recipe.steps,
        bf16=recipe.precision == "bf16",
        gradient_checkpointing=False,  # its layers run anew and fill no cache, which pruning inside them reads
        ddp_find_unused_parameters=False,
        ddp_broadcast_buffers=False,  # two forwards to a backward
        seed=recipe.seed,
        logging_steps=recipe.log_every,
        save_strategy="steps",
        save_steps=recipe.save_every,
        save_total_limit=2,
        remove_unused_columns=False,
        report_to="none",
        disable_tqdm=True,
        use_cpu=cpu,
    )


def _data_set(reader: PromptReader) -> Any:
    """Return the records as trl wants them; each is read when it is drawn."""
    from datasets import Dataset

    numbers = Dataset.from_dict({"record": list(range(len(reader.entries)))})
    return numbers.with_transform(lambda batch: reader.columns(batch["record"]))
