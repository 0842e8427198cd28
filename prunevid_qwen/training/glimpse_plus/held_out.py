"""What drawn answers to held-out records are worth: before and after, from the boxes alone and from the whole video."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from typing import Any

import torch

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.training.glimpse_plus.entries import PromptReader
from prunevid_qwen.training.glimpse_plus.policy import draw
from prunevid_qwen.training.glimpse_plus.recipe import GlimpsePlusRecipe
from prunevid_qwen.training.glimpse_plus.rewards import Reward

WHENS = ("before", "after")
FROM = ("boxes", "whole")


def measure(
    trainer: Any,
    reader: PromptReader,
    recipe: GlimpsePlusRecipe,
    rewards: Mapping[str, Reward],
    when: str,
    done: int,
    tell: Callable[[int, int], None],
) -> Iterator[dict[str, Any]]:
    """Draw answers to each held-out record and score them, one line for each record and `FROM`.

    A record's answers are drawn from a seed of its own, the same before and after.

    Args:
        trainer: whose model answers; "before" is the model without its adapters.
        reader: of the held-out records.
        recipe: how answers are drawn, and how many.
        rewards: by name.
        when: one of `WHENS`.
        done: lines that are there already.
        tell: told how many records are done, of how many.
    """
    adapted = trainer.accelerator.unwrap_model(trainer.model)
    was = adapted.training
    adapted.eval()
    lines = [(source, index) for source in FROM for index in range(len(reader.entries))]
    try:
        with adapted.disable_adapter() if when == "before" else nullcontext():
            for number, (source, index) in enumerate(lines[done:], done):
                config = trainer.pruning if source == "boxes" else PruneVidConfig(**_WHOLE)
                given = _scored(trainer, reader, recipe, rewards, index, config)
                worth = [value for value in given if value is not None]
                mean = sum(worth) / len(worth) if worth else None
                entry = reader.entries.entry(index)
                yield {
                    "when": when, "from": source, "entry": entry, "record": index, "reward": mean, "rewards": given,
                }  # fmt: skip
                tell(number + 1, len(lines))
    finally:
        adapted.train(was)


_WHOLE: dict[str, Any] = {"enable_stage1": False, "enable_stage2": False}


def _scored(
    trainer: Any,
    reader: PromptReader,
    recipe: GlimpsePlusRecipe,
    rewards: Mapping[str, Reward],
    index: int,
    config: PruneVidConfig,
) -> list[float | None]:
    device, tokenizer = trainer.accelerator.device, reader.preprocessor.tokenizer
    numbers = [index] * recipe.eval_answers
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), trainer.accelerator.autocast():
        torch.manual_seed(recipe.seed * 1_000_003 + index)
        drawn = draw(
            trainer.accelerator.unwrap_model(trainer.model),
            trainer.base,
            reader.prompts(numbers).to(device),
            config,
            longest=recipe.max_new_tokens,
            temperature=recipe.temperature,
            ends=trainer.eos_token_ids,
            pad=tokenizer.pad_token_id,
        )
    said = tokenizer.batch_decode([each.ids for each in drawn], skip_special_tokens=True)
    columns = reader.columns(numbers)
    score = rewards[columns["reward"][0]]
    return list(score(completions=said, **columns))
