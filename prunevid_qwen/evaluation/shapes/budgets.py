"""Find the config with which a method reaches a budget of layer-averaged tokens: one for each kind of video.

Most settings are weighed without the decoder: merging sees the encoded video alone, and how many tokens a selector
keeps seldom depends on which. Where that count turns out wrong (a selector that adapts), the decoder is run instead.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

import torch

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.config.amounts import percent
from prunevid_qwen.contract.samples import QUESTION, only_what_it_asks_for
from prunevid_qwen.errors import ConfigError, UnsupportedError
from prunevid_qwen.evaluation.shapes.methods import Method, changes
from prunevid_qwen.evaluation.shapes.videos import CALIBRATION_SEED, CALIBRATION_VIDEOS, Questioner, ShapesVideo
from prunevid_qwen.forward.hooks import pruned
from prunevid_qwen.forward.plan import compile_plan
from prunevid_qwen.model import PruneVidQwen25VL
from prunevid_qwen.moving_shapes.conditions import Condition
from prunevid_qwen.reducer import Evidence, Reducer
from prunevid_qwen.tokens import Block, TokenLayout
from prunevid_qwen.tokens.trace import Reduction, SampleTrace
from prunevid_qwen.vision.options import vision_options

NEAR, NEAR_FOR_SIZES = 0.08, 0.2
"""How far, relative to the budget, a cell may be from it; frames and their sizes come in coarse steps."""

LEFT_OUT = "left out"
"""Status of a method that the model cannot be pruned by: it is not asked about any video."""

_QUESTIONS = 4  # of each calibration video, where the decoder has to run


Cell = dict[str, Any]
"""A method at a budget on one kind of video, as the record stores it.

method, budget (None where nothing is fitted), condition; config: options that differ from `PruneVidConfig`'s defaults;
achieved: mean layer-averaged share over the calibration videos, of the nearest setting; status: "ok", "unreachable" or
`LEFT_OUT`, and why; counted: "planned" from the encoded videos, "asked" where the decoder had to run, "" of a method
that is left out.
"""


class Calibration:
    """Fits methods to budgets on one kind of video, by at least one of its calibration videos."""

    def __init__(
        self,
        model: PruneVidQwen25VL,
        condition: Condition,
        videos: int = CALIBRATION_VIDEOS,
        through_files: bool = False,
    ) -> None:
        self.condition, chosen = condition, [ShapesVideo(condition, CALIBRATION_SEED + k) for k in range(videos)]
        self.questioners = [Questioner(model, each, each.questions(_QUESTIONS), through_files) for each in chosen]
        self.stock = model.model
        self.layers = int(model.model.config.get_text_config().num_hidden_layers)
        self._merged: dict[Any, tuple[TokenLayout, torch.Tensor]] = {}
        self._planned: dict[PruneVidConfig, float] = {}

    def cells(self, method: Method, budgets: Sequence[float]) -> list[Cell]:
        """Fit ``method`` to every budget, in their order; a method without levers gives one cell, with no budget.

        A method that the model cannot be pruned by gives one cell, without a budget too, whose ``why`` is the refusal.
        """
        settings = method.settings(self.condition, self._fits, self.questioners[0].reader.video.factor)
        base = method.base_config(self.condition)
        configs = [base.replace(**setting) for setting in settings]
        if why := self._refusal(configs[-1]):  # the hardest: one that keeps every token has no step
            return [{**self._cell(method, None, configs[-1]), "status": LEFT_OUT, "why": why}]
        near = NEAR_FOR_SIZES if {"max_frames", "max_pixels"} & settings[0].keys() else NEAR
        wanted = budgets if len(configs) > 1 else [None]
        cells = [self._fitted(method, budget, configs, near, "planned") for budget in wanted]
        if all(self._holds(PruneVidConfig.from_record(cell["config"])) for cell in cells):
            return cells
        return [self._fitted(method, budget, configs, near, "asked") for budget in wanted]

    def planned(self, config: PruneVidConfig) -> float:
        """Mean layer-averaged share under ``config``, from the encoded videos alone, in (0, 1]."""
        if config not in self._planned:  # the search for each budget begins with the same settings
            shares = [self._planned_share(config, k) for k in range(len(self.questioners))]
            self._planned[config] = sum(shares) / len(shares)
        return self._planned[config]

    def asked(self, config: PruneVidConfig) -> float:
        """Mean layer-averaged share under ``config`` while questions are asked, in (0, 1]."""
        shares = [share for k in range(len(self.questioners)) for share in self._asked_shares(config, k)]
        return sum(shares) / len(shares)

    def _fits(self, config: PruneVidConfig) -> bool:
        try:
            compile_plan(config, self.layers)
        except ConfigError:
            return False
        return True

    def _refusal(self, config: PruneVidConfig) -> str:
        """Why the model cannot be pruned by ``config``: it lacks what the method reads or adds. "" where it can."""
        try:
            with pruned(self.stock, config):
                return ""
        except (ConfigError, UnsupportedError) as error:
            return str(error)

    def _holds(self, config: PruneVidConfig) -> bool:
        """Whether the planned count is what the decoder does, by one video."""
        planned = self._planned_share(config, 0)
        return all(math.isclose(share, planned) for share in self._asked_shares(config, 0))

    def _fitted(
        self, method: Method, budget: float | None, configs: list[PruneVidConfig], near: float, counted: str
    ) -> Cell:
        measure, last, why = self.planned if counted == "planned" else self.asked, len(configs) - 1, ""
        if budget is None:
            best, share = 0, measure(configs[0])
        else:
            # shares fall from setting to setting: the first that is not above the budget, or the last of all
            first = bisect_left(configs, -budget, hi=last, key=lambda config: -measure(config))
            shares = {k: measure(configs[k]) for k in (first, max(first - 1, 0))}
            best, share = min(shares.items(), key=lambda each: abs(each[1] - budget))
            if abs(share - budget) > near * budget:
                why = "the nearest it comes is"
                if best in (0, last) and (share < budget) == (best == 0):
                    why = f"at its {'lightest' if best == 0 else 'hardest'} it leaves"
                why += f" {percent(share, 1)} of the tokens"
        reached = {"achieved": round(share, 6), "status": "unreachable" if why else "ok", "why": why}
        return {**self._cell(method, budget, configs[best]), **reached, "counted": counted}

    def _cell(self, method: Method, budget: float | None, config: PruneVidConfig) -> Cell:
        """Return the beginning of a cell, in the order in which records hold it."""
        about = {"method": method.name, "budget": budget, "condition": self.condition.name, "config": changes(config)}
        return {**about, "achieved": None, "status": "", "why": "", "counted": ""}

    def _asked_shares(self, config: PruneVidConfig, number: int) -> list[float]:
        whole = self.layers * self.questioners[number].visual
        return [sum(line["tokens"]) / whole for line in self.questioners[number].ask(config)]

    def _planned_share(self, config: PruneVidConfig, number: int) -> float:
        plan = compile_plan(config, self.layers)
        layout, hidden = self._after_stage1(None if plan.door is None else plan.door.by, number, config)
        entered, cuts = hidden.shape[0], []
        first: dict[int, tuple[int, ...]] = {}
        for step in plan.cuts:
            sizes = tuple(block.stop - block.start for block in layout.blocks)
            # no decoder has run: any evidence serves, since it is only counted how many are kept
            seen = Evidence(
                layout,
                hidden,
                hidden.new_zeros(QUESTION, hidden.shape[1]),
                torch.linspace(-1.0, -9.0, hidden.shape[0]),
                step=plan.number_of(step),
                layer=step.at,
                entered=first.setdefault(id(step.by), sizes),
                steps_at=plan.places_of(step.by),
                depth=self.layers,
            )
            kept = step.by.plan(only_what_it_asks_for(step.by, seen))
            cuts.append(Reduction(step.at, step.name, kept))
            layout, hidden = layout.apply(kept)[0], kept.take(hidden, 0)
        widths = SampleTrace((), entered, layout.length, tuple(cuts)).widths(self.layers)
        return sum(widths) / (self.layers * self.questioners[number].visual)

    def _after_stage1(
        self, before: Reducer | None, number: int, config: PruneVidConfig
    ) -> tuple[TokenLayout, torch.Tensor]:
        """The video's tokens and a few of a question after them, merged; the same merger may see other frames."""
        key = before, number, config.max_frames, config.max_pixels, vision_options(config.reading)
        if key not in self._merged:
            look = self.questioners[number].look(config)
            hidden, (t, h, w) = look.features, look.medium.grid[0].tolist()
            count = hidden.shape[0]
            side = math.isqrt(t * h * w // count)  # patches per side of a token
            block = Block("video", (t, h // side, w // side), 0, count)
            groups = torch.zeros(count, dtype=torch.long)
            text = torch.arange(count, count + QUESTION)
            layout = TokenLayout(count + QUESTION, torch.arange(count), text, (block,), groups)
            if before is not None:
                seen = Evidence(layout, hidden, hidden.new_zeros(QUESTION, hidden.shape[1]), depth=self.layers)
                merged = before.plan(only_what_it_asks_for(before, seen))
                layout, hidden = layout.apply(merged)[0], merged.mean(hidden)
            self._merged[key] = layout, hidden
        return self._merged[key]
