"""Measure the competitors on one prompt: what they do once, then their times in turns, round by round.

They are the stock model, keep-everything, the configs asked for, and controls at equal tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from prunevid_qwen.adapters import visual_tokens
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.config.amounts import percent
from prunevid_qwen.config.typed import named_configs
from prunevid_qwen.errors import ConfigError, PruningNotApplied
from prunevid_qwen.evaluation.speed.flops import facts_of
from prunevid_qwen.evaluation.speed.memory import peak_memory
from prunevid_qwen.evaluation.speed.prompt_inputs import PromptSize
from prunevid_qwen.evaluation.speed.timed_run import timed_parts, timed_tokens
from prunevid_qwen.receipt import check_applied

OUT_OF_MEMORY = "out of memory"
STOCK, KEEP_EVERYTHING = "stock", "keep everything"
CONTROLS = ("random", "uniform")

# the vision tower takes all at once, as the stock model's does: other chunks, other roundings, and perhaps other tokens
KEEPS_ALL = PruneVidConfig(
    tau=1.0, cluster_ratio=1.0, keep_ratio=1.0, min_cluster_tokens=0, position_scheme="hf", vision_chunk_tokens=None
)
"""All three stages on and nothing to drop, with the library's own positions: its tokens must be the stock model's."""


@dataclass(frozen=True)
class Competitor:
    """One of those that are measured in turns."""

    name: str  # as in tables and plots
    config: PruneVidConfig | None  # None is the stock model without any hook
    follows: str | None = None  # the competitor whose token counts a control takes


def competitors(presets: Sequence[str]) -> list[Competitor]:
    """List what every measurement takes in turns, in this order; the controls follow the first preset.

    Args:
        presets: names or JSON files of configs, at least one.

    Raises:
        ConfigError: none, one twice, an unknown one, or a first one whose share the controls cannot take.
    """
    if not presets:
        raise ConfigError("name at least one preset to measure: --configs paper")
    if len(set(presets)) < len(presets):
        raise ConfigError(f"a preset is named twice: {', '.join(presets)}")
    configs = {name: named_configs(name)[0][1] for name in presets}
    for name in (STOCK, KEEP_EVERYTHING, *CONTROLS):
        if name in configs:
            raise ConfigError(f"{name!r} is the name of a competitor that always runs: rename the file")
    first = presets[0]
    if configs[first].fixed_keep_ratio is None:
        raise ConfigError(
            f"controls keep the share of the first preset, and {first!r} has no fixed one: it decides anew for "
            "each prompt, keeps a number of tokens, or cuts several times; name one with a keep_ratio of one cut, "
            "or a JSON file with keep_threshold null"
        )
    return [
        Competitor(STOCK, None),
        Competitor(KEEP_EVERYTHING, KEEPS_ALL),
        *(Competitor(name, config) for name, config in configs.items()),
        *(Competitor(name, PruneVidConfig(), first) for name in CONTROLS),
    ]


def control_config(name: str, leader: PruneVidConfig, given: int, after_stage1: float) -> PruneVidConfig:
    """Return the config of a control that keeps as many tokens as its leader did, at the same places of the model.

    Args:
        name: "random" or "uniform".
        leader: the config that it follows.
        given: visual tokens of a row.
        after_stage1: what the leader's stage 1 left of them, averaged over the rows.
    """
    changes: dict[str, Any] = {}
    if leader.enable_stage1:  # a half more: the share is rounded down
        changes |= {"merger": name, "cluster_ratio": min(1.0, (after_stage1 + 0.5) / given)}
    if leader.enable_stage2:
        changes |= {"selector": name, "keep_ratio": leader.keep_ratio, "pruning_layer": leader.pruning_layer}
    return leader.replace(**changes)


@dataclass
class Contest:
    """The competitors on one prompt.

    Args:
        model: which all of them share; a Qwen2.5-VL.
        size: of the prompt.
        inputs: the prompt as tensors, the same for all.
        entered: who competes, in the order of their turns.
        new_tokens: of every answer.
    """

    model: Any
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
        able: dict[str, Competitor] = {}
        for competitor in self.entered:
            followed = competitor.follows
            try:
                if followed is not None:
                    if followed not in able:
                        found[competitor.name] = {"error": f"{followed} could not run: nothing to follow"}
                        continue
                    leader, tokens = able[followed].config, found[followed]["facts"]["tokens"]
                    assert leader is not None
                    config = control_config(competitor.name, leader, tokens["visual"], tokens["after_stage1"])
                    competitor = replace(competitor, config=config)
                about, new = self._once(competitor)
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
                found[competitor.name] = {"error": OUT_OF_MEMORY}
            else:
                stock = new if competitor.name == STOCK else stock
                same = None if stock is None else bool(torch.equal(new, stock))
                found[competitor.name] = {**about, "tokens_as_stock": same}
                able[competitor.name] = competitor
            finally:
                tell()
        self.entered = list(able.values())
        return found

    def rounds(self, count: int) -> Iterator[dict[str, dict[str, Any]]]:
        """Let every competitor have its turn, ``count`` times over; yield each round when all have had theirs."""
        for _ in range(count):
            yield {competitor.name: self._turn(competitor) for competitor in self.entered}

    def _once(self, competitor: Competitor) -> tuple[dict[str, Any], Tensor]:
        config, ids = competitor.config, self.inputs["input_ids"]
        parts = timed_parts(self.model, self.inputs, config)
        # only now: what is allocated once, at the first run, would count against whoever runs first
        with peak_memory(ids.device) as memory:
            _, new = timed_tokens(self.model, self.inputs, config, self.new_tokens)
        if parts.trace is not None and config is not None:
            check_applied(parts.trace, config, visual_tokens(self.model, ids))
        facts = facts_of(self.size, self.model, config, parts)
        if competitor.name == KEEP_EVERYTHING and facts["R2"] != 1:
            raise PruningNotApplied(f"{KEEP_EVERYTHING} kept {percent(facts['R2'], 1)}: the comparison would be void")
        flat = None if config is None else config.flat()
        return {"config": flat, "follows": competitor.follows, "facts": facts, "memory": memory}, new

    def _turn(self, competitor: Competitor) -> dict[str, Any]:
        times, _ = timed_tokens(self.model, self.inputs, competitor.config, self.new_tokens)
        return {**times, "parts": timed_parts(self.model, self.inputs, competitor.config).seconds}
