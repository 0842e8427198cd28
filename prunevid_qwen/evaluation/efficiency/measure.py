"""Measure the competitors on one prompt: what they do once, then their times in turns, round by round."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from prunevid_qwen.adapters import visual_tokens
from prunevid_qwen.config.amounts import percent
from prunevid_qwen.errors import PruningNotApplied
from prunevid_qwen.evaluation.efficiency.facts import facts_of
from prunevid_qwen.evaluation.efficiency.inputs import Prompt
from prunevid_qwen.evaluation.efficiency.memory import peak_memory
from prunevid_qwen.evaluation.efficiency.shapes import Shape
from prunevid_qwen.evaluation.efficiency.timing import timed_parts, timed_tokens
from prunevid_qwen.evaluation.efficiency.variants import KEEP_EVERYTHING, STOCK, Variant, control_config
from prunevid_qwen.receipt import check_applied

Times = dict[str, Any]
OUT_OF_MEMORY = "out of memory"


@dataclass
class Contest:
    """The competitors on one prompt.

    Args:
        model: the model, which all of them share.
        shape: its sizes.
        prompt: what every row holds.
        inputs: the prompt as tensors; all competitors are given these.
        variants: who competes, in the order of their turns.
        new_tokens: how many every answer has.
    """

    model: Any
    shape: Shape
    prompt: Prompt
    inputs: dict[str, Any]
    variants: list[Variant]
    new_tokens: int

    def prepare(self, tell: Callable[[], None] = lambda: None) -> dict[str, dict[str, Any]]:
        """Let every competitor run twice, unmeasured, and say what it did; those that cannot run leave the contest.

        Args:
            tell: called after each.

        Returns:
            For each name its config, facts, memory and whether its tokens are the stock model's; or an ``error``.

        Raises:
            PruningNotApplied: a stage was asked for and did not act, or "keep everything" did not.
        """
        found: dict[str, dict[str, Any]] = {}
        stock: Tensor | None = None
        able: list[Variant] = []
        for variant in self.variants:
            leader = found.get(variant.follows or "")
            if leader is not None and "facts" in leader:
                variant = self._control(variant, leader)
            elif leader is not None:
                found[variant.name] = {"error": f"{variant.follows} could not run: nothing to follow"}
                tell()
                continue
            try:
                found[variant.name], new = self._once(variant)
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
                found[variant.name] = {"error": OUT_OF_MEMORY}
            else:
                stock = new if variant.name == STOCK else stock
                found[variant.name]["tokens_as_stock"] = None if stock is None else bool(torch.equal(new, stock))
                able.append(variant)
            tell()
        self.variants = able
        return found

    def _control(self, variant: Variant, leader: dict[str, Any]) -> Variant:
        config = next(v.config for v in self.variants if v.name == variant.follows)
        assert config is not None
        tokens = leader["facts"]["tokens"]
        return replace(variant, config=control_config(variant.name, config, tokens["visual"], tokens["after_stage1"]))

    def _once(self, variant: Variant) -> tuple[dict[str, Any], Tensor]:
        config, device = variant.config, self.inputs["input_ids"].device
        parts = timed_parts(self.model, self.inputs, config)
        # only now: what is allocated once, at the first run, would count against whoever runs first
        with peak_memory(device) as memory:
            _, new = timed_tokens(self.model, self.inputs, config, self.new_tokens)
        if parts.trace is not None and config is not None:
            check_applied(parts.trace, config, visual_tokens(self.model, self.inputs["input_ids"]))
        size = next(self.model.parameters()).element_size()
        facts = facts_of(self.prompt, self.shape, config, parts.trace, parts.cache, size)
        if variant.name == KEEP_EVERYTHING and facts["R2"] != 1:
            raise PruningNotApplied(f"{KEEP_EVERYTHING} kept {percent(facts['R2'], 1)}: the comparison would be void")
        about = {
            "config": None if config is None else config.flat(),
            "follows": variant.follows,
            "facts": facts,
            "memory": memory.to_dict(),
        }
        return about, new

    def rounds(self, count: int) -> Iterator[dict[str, Times]]:
        """Let every competitor have its turn, ``count`` times over; yield each round when all have had theirs."""
        for _ in range(count):
            yield {variant.name: self._turn(variant) for variant in self.variants}

    def _turn(self, variant: Variant) -> Times:
        times, _ = timed_tokens(self.model, self.inputs, variant.config, self.new_tokens)
        return {**times, "parts": timed_parts(self.model, self.inputs, variant.config).seconds}
