"""Measure competitors on one prompt: what they do once, then their times in turns, round by round.

They are the stock model, keep-everything, the configs asked for, and controls at equal tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from prunevid_qwen.adapters import visual_tokens
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.config.amounts import percent
from prunevid_qwen.config.typed import named_configs
from prunevid_qwen.errors import ConfigError, PruningNotApplied
from prunevid_qwen.evaluation.speed.flops import facts_of
from prunevid_qwen.evaluation.speed.model_shapes import build_model, shape_called
from prunevid_qwen.evaluation.speed.prompt_forms import form_of
from prunevid_qwen.evaluation.speed.prompt_inputs import PromptSize, make_inputs
from prunevid_qwen.evaluation.speed.timed_run import peak_memory, timed_parts, timed_tokens
from prunevid_qwen.evaluation.store import Progress
from prunevid_qwen.receipt import check_applied

OUT_OF_MEMORY = "out of memory"
STOCK, KEEP_EVERYTHING = "stock", "keep everything"
CONTROLS = ("random", "uniform")

# the vision tower takes all at once, as the stock model's does: other chunks, other roundings, and perhaps other tokens
KEEPS_ALL = PruneVidConfig(
    tau=1.0, cluster_ratio=1.0, keep_ratio=1.0, min_cluster_tokens=0, position_scheme="hf", vision_chunk_tokens=None
)
"""All three stages on and nothing to drop, with the library's own positions: its tokens must be the stock model's."""

# prompt, new tokens, pairs of `measure_overhead`: enough for the difference to stand out of the noise in minutes
_PAIRS = {"tiny": (PromptSize(16, 4, 5), 32, 60)}
_OTHER_PAIRS = (PromptSize(8, 10, 14), 16, 12)


class Competitor(NamedTuple):
    """One of those that are measured in turns."""

    name: str  # as in tables and plots
    config: PruneVidConfig | None  # None is the stock model without any hook
    follows: str | None = None  # the competitor whose token counts a control takes


def competitors(presets: Sequence[str]) -> list[Competitor]:
    """List what every measurement takes in turns; the controls follow the first of the presets (or JSON files).

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
    own = [Competitor(name, config) for name, config in configs.items()]
    controls = [Competitor(name, PruneVidConfig(), first) for name in CONTROLS]
    return [Competitor(STOCK, None), Competitor(KEEP_EVERYTHING, KEEPS_ALL), *own, *controls]


def control_config(
    name: str, leader: PruneVidConfig, given: int, after_stage1: float, unplaced: int = 0
) -> PruneVidConfig:
    """Return the config of a control that keeps as many tokens as its leader did, at the same places of the model.

    The leader's stage 1 left ``after_stage1`` of the ``given`` visual tokens of a row, averaged over the rows;
    ``unplaced`` of them have no place in a grid, and stay.
    """
    changes: dict[str, Any] = {}
    if leader.enable_stage1:  # a half more: the share is rounded down
        changes |= {"merger": name, "cluster_ratio": min(1.0, (after_stage1 - unplaced + 0.5) / (given - unplaced))}
    if leader.enable_stage2:
        changes |= {"selector": name, "keep_ratio": leader.keep_ratio, "pruning_layer": leader.pruning_layer}
    return leader.replace(**changes)


@dataclass
class Contest:
    """The competitors on one prompt."""

    model: Any  # which all of them share
    size: PromptSize
    inputs: dict[str, Any]  # the prompt as tensors, the same for all
    entered: list[Competitor]  # who competes, in the order of their turns
    new_tokens: int  # of every answer

    def prepare(self, tell: Callable[[], None] = lambda: None) -> dict[str, dict[str, Any]]:
        """Let every competitor run twice, unmeasured, and say what it did; those that cannot run leave the contest.

        Returns:
            For each name its config, facts, memory and whether its tokens are the stock model's; or an ``error``.

        Raises:
            PruningNotApplied: a stage was asked for and did not act, or "keep everything" did not.
        """
        found: dict[str, dict[str, Any]] = {}
        able: dict[str, Competitor] = {}
        stock: Tensor | None = None
        for competitor in self.entered:
            name, _, followed = competitor
            if followed is not None and followed not in able:
                found[name] = {"error": f"{followed} could not run: nothing to follow"}
                tell()
                continue
            if followed is not None and (leader := able[followed].config) is not None:
                tokens = found[followed]["facts"]["tokens"]
                unplaced = self.size.form.unplaced(self.size.positions)
                own = control_config(name, leader, tokens["visual"], tokens["after_stage1"], unplaced)
                competitor = competitor._replace(config=own)
            try:
                about, new = self._once(competitor)
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
                found[name] = {"error": OUT_OF_MEMORY}
            else:
                stock = new if name == STOCK else stock
                found[name] = {**about, "tokens_as_stock": None if stock is None else bool(torch.equal(new, stock))}
                able[name] = competitor
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


def measure_overhead(
    shape: str, device: torch.device, dtype: torch.dtype, attention: str, tell: Progress = lambda *_: None
) -> dict[str, Any]:
    """Time `generate` of stock and keep-everything in pairs, first one and then the other in front."""
    size, new_tokens, count = _PAIRS.get(shape, _OTHER_PAIRS)
    model = build_model(shape_called(shape), device, dtype, attention)
    form = form_of(model.config)
    rows, columns = form.grid or (size.rows, size.columns)
    size = dataclasses.replace(size, rows=rows, columns=columns, form=form)
    inputs, pairs = make_inputs(size, model), []
    for number in range(-2, count):  # two rounds of warm-up
        tell(f"hooks' cost on {shape}", max(number, 0), count)
        turns = ((STOCK, None), (KEEP_EVERYTHING, KEEPS_ALL))[:: 1 if number % 2 else -1]
        times = {name: timed_tokens(model, inputs, config, new_tokens)[0] for name, config in turns}
        if number >= 0:
            pairs.append({name: times[name] for name in (STOCK, KEEP_EVERYTHING)})
    tell(f"hooks' cost on {shape}", count, count)
    about = {"kind": "overhead", "shape": shape, "prompt_tokens": size.length, "new_tokens": new_tokens}
    return {**about, "pairs": pairs}
