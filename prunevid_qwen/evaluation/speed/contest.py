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
from prunevid_qwen.evaluation.speed.competitors import KEEP_EVERYTHING, STOCK, Competitor, control_config
from prunevid_qwen.evaluation.speed.memory import peak_memory
from prunevid_qwen.evaluation.speed.model_shapes import Shape
from prunevid_qwen.evaluation.speed.random_prompt import PromptSize
from prunevid_qwen.evaluation.speed.run_facts import facts_of
from prunevid_qwen.evaluation.speed.timed_run import timed_parts, timed_tokens
from prunevid_qwen.receipt import check_applied

OUT_OF_MEMORY = "out of memory"


@dataclass
class Contest:
    """The competitors on one prompt.

    Args:
        model: which all of them share.
        shape: of the model.
        size: of the prompt.
        inputs: the prompt as tensors, the same for all.
        entered: who competes, in the order of their turns.
        new_tokens: of every answer.
    """

    model: Any
    shape: Shape
    size: PromptSize
    inputs: dict[str, Any]
    entered: list[Competitor]
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
        able: list[Competitor] = []
        for competitor in self.entered:
            try:
                if competitor.follows is not None:
                    if "error" in found[competitor.follows]:
                        found[competitor.name] = {"error": f"{competitor.follows} could not run: nothing to follow"}
                        continue
                    competitor = self._control(competitor, found[competitor.follows]["facts"]["tokens"])
                about, new = self._once(competitor)
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
                found[competitor.name] = {"error": OUT_OF_MEMORY}
            else:
                stock = new if competitor.name == STOCK else stock
                same = None if stock is None else bool(torch.equal(new, stock))
                found[competitor.name] = {**about, "tokens_as_stock": same}
                able.append(competitor)
            finally:
                tell()
        self.entered = able
        return found

    def rounds(self, count: int) -> Iterator[dict[str, dict[str, Any]]]:
        """Let every competitor have its turn, ``count`` times over; yield each round when all have had theirs."""
        for _ in range(count):
            yield {competitor.name: self._turn(competitor) for competitor in self.entered}

    def _control(self, control: Competitor, tokens: dict[str, Any]) -> Competitor:
        leader = next(each.config for each in self.entered if each.name == control.follows)
        assert leader is not None
        return replace(control, config=control_config(control.name, leader, tokens["visual"], tokens["after_stage1"]))

    def _once(self, competitor: Competitor) -> tuple[dict[str, Any], Tensor]:
        config, device = competitor.config, self.inputs["input_ids"].device
        parts = timed_parts(self.model, self.inputs, config)
        # only now: what is allocated once, at the first run, would count against whoever runs first
        with peak_memory(device) as memory:
            _, new = timed_tokens(self.model, self.inputs, config, self.new_tokens)
        if parts.trace is not None and config is not None:
            check_applied(parts.trace, config, visual_tokens(self.model, self.inputs["input_ids"]))
        itemsize = next(self.model.parameters()).element_size()
        facts = facts_of(self.size, self.shape, config, parts.trace, parts.cache, itemsize)
        if competitor.name == KEEP_EVERYTHING and facts["R2"] != 1:
            raise PruningNotApplied(f"{KEEP_EVERYTHING} kept {percent(facts['R2'], 1)}: the comparison would be void")
        about = {
            "config": None if config is None else config.flat(),
            "follows": competitor.follows,
            "facts": facts,
            "memory": memory.to_dict(),
        }
        return about, new

    def _turn(self, competitor: Competitor) -> dict[str, Any]:
        times, _ = timed_tokens(self.model, self.inputs, competitor.config, self.new_tokens)
        return {**times, "parts": timed_parts(self.model, self.inputs, competitor.config).seconds}
