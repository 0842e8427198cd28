"""Find the config with which a method reaches a budget of layer-averaged tokens: one for each kind of video.

Most settings are weighed without the decoder: merging sees the encoded video alone, and how many tokens a selector
keeps seldom depends on which. Where that count turns out wrong (a selector that adapts), the decoder is run instead.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.config.amounts import percent
from prunevid_qwen.contract.samples import only_what_it_asks_for
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.evaluation.shapes.methods import Method, changes
from prunevid_qwen.evaluation.shapes.questioner import Questioner
from prunevid_qwen.evaluation.shapes.videos import CALIBRATION_VIDEOS, Condition, calibration_videos
from prunevid_qwen.forward.plan import compile_plan
from prunevid_qwen.model import PruneVidQwen25VL
from prunevid_qwen.reducer import Evidence, Reducer
from prunevid_qwen.tokens import Block, TokenLayout, TokenMap
from prunevid_qwen.tokens.trace import Reduction, SampleTrace

NEAR, NEAR_FOR_SIZES = 0.08, 0.2
"""How far, relative to the budget, a cell may be from it; frames and their sizes come in coarse steps."""

_QUESTIONS = 4  # of each calibration video, where the decoder has to run


@dataclass(frozen=True)
class Cell:
    """A method at a budget on one kind of video, as the record stores it.

    Args:
        budget: layer-averaged share asked for; None where nothing is fitted.
        config: options that differ from `PruneVidConfig`'s defaults: what to set to get this.
        achieved: mean layer-averaged share over the calibration videos, of the nearest setting.
        status: "ok" or "unreachable".
        why: for an unreachable cell, what stands in the way; else "".
        counted: "planned" from the encoded videos, or "asked" where the decoder had to run.
    """

    method: str
    budget: float | None
    condition: str
    config: dict[str, Any]
    achieved: float
    status: str
    why: str
    counted: str

    @property
    def whole_config(self) -> PruneVidConfig:
        """The config with its defaults."""
        return PruneVidConfig.from_record(self.config)


class Calibration:
    """Fits methods to budgets on one kind of video, by at least one of its calibration videos."""

    def __init__(self, model: PruneVidQwen25VL, condition: Condition, videos: int = CALIBRATION_VIDEOS) -> None:
        self.model, self.condition = model, condition
        chosen = calibration_videos(condition, videos)
        self.questioners = [Questioner(model, video, video.questions(_QUESTIONS)) for video in chosen]
        self.layers = int(model.model.config.get_text_config().num_hidden_layers)
        self._merged: dict[tuple[Reducer, int, int, int | None], tuple[TokenLayout, torch.Tensor]] = {}

    def cells(self, method: Method, budgets: Sequence[float]) -> list[Cell]:
        """Fit ``method`` to every budget, in their order; a method without levers gives one cell, with no budget."""
        base, settings = method.base_config(self.condition), method.settings(self.condition, self._fits)
        configs = [base.replace(**setting) for setting in settings]
        if any("max_frames" in setting or "max_pixels" in setting for setting in settings):
            return [self._sized(method, budget, configs) for budget in budgets]
        wanted = [None] if len(configs) == 1 else budgets
        cells = [self._fitted(method, budget, configs, "planned") for budget in wanted]
        if all(self._holds(cell.whole_config) for cell in cells):
            return cells
        return [self._fitted(method, budget, configs, "asked") for budget in wanted]

    def planned(self, config: PruneVidConfig) -> float:
        """Mean layer-averaged share under ``config``, from the encoded videos alone, in (0, 1]."""
        shares = [self._planned_share(config, k) for k in range(len(self.questioners))]
        return sum(shares) / len(shares)

    def asked(self, config: PruneVidConfig) -> float:
        """Mean layer-averaged share under ``config`` while questions are asked, in (0, 1]."""
        shares = [share for questioner in self.questioners for share in self._asked_shares(questioner, config)]
        return sum(shares) / len(shares)

    def _fits(self, config: PruneVidConfig) -> bool:
        try:
            compile_plan(config, self.layers)
        except ConfigError:
            return False
        return True

    def _holds(self, config: PruneVidConfig) -> bool:
        """Whether the planned count is what the decoder does, by one video."""
        planned = self._planned_share(config, 0)
        return all(math.isclose(share, planned) for share in self._asked_shares(self.questioners[0], config))

    def _fitted(self, method: Method, budget: float | None, configs: list[PruneVidConfig], counted: str) -> Cell:
        measure = self.planned if counted == "planned" else self.asked
        if budget is None:
            return self._cell(method, None, configs[0], measure(configs[0]), "", counted)
        # shares fall from setting to setting: the first that is not above the budget, or the last of all
        first = bisect_left(configs, -budget, hi=len(configs) - 1, key=lambda config: -measure(config))
        near = [k for k in (first, first - 1) if k >= 0]
        share, k = min(((measure(configs[k]), k) for k in near), key=lambda each: abs(each[0] - budget))
        why = _why_not(share, budget, NEAR, k == 0, k == len(configs) - 1)
        return self._cell(method, budget, configs[k], share, why, counted)

    def _sized(self, method: Method, budget: float, configs: list[PruneVidConfig]) -> Cell:
        looks = map(self.questioners[0].look, configs)
        shares = [look.features.shape[0] / self.condition.tokens for look in looks]
        share, config = min(zip(shares, configs, strict=True), key=lambda each: abs(each[0] - budget))
        why = _why_not(share, budget, NEAR_FOR_SIZES, False, False)
        return self._cell(method, budget, config, share, why and f"no such size: {why}", "planned")

    def _cell(
        self, method: Method, budget: float | None, config: PruneVidConfig, share: float, why: str, counted: str
    ) -> Cell:
        status, share = "unreachable" if why else "ok", round(share, 6)
        return Cell(method.name, budget, self.condition.name, changes(config), share, status, why, counted)

    def _asked_shares(self, questioner: Questioner, config: PruneVidConfig) -> list[float]:
        whole = self.layers * self.condition.tokens
        return [sum(reply.tokens) / whole for reply in questioner.ask(config)]

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
                hidden.new_zeros(1, hidden.shape[1]),
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
        return sum(widths) / (self.layers * self.condition.tokens)

    def _after_stage1(
        self, before: Reducer | None, number: int, config: PruneVidConfig
    ) -> tuple[TokenLayout, torch.Tensor]:
        look = self.questioners[number].look(config)
        layout, hidden = _bare_layout(look.medium.grid, look.features), look.features
        if before is None:
            return layout, hidden
        key = before, number, config.max_frames, config.max_pixels  # the same merger sees other tokens of other frames
        if key not in self._merged:
            step: TokenMap = before.plan(Evidence(layout, hidden, hidden.new_zeros(1, hidden.shape[1])))
            self._merged[key] = layout.apply(step)[0], step.mean(hidden)
        return self._merged[key]


def _bare_layout(grid: torch.Tensor, features: torch.Tensor) -> TokenLayout:
    """The video's tokens and one question token after them."""
    t, h, w = grid[0].tolist()
    count = features.shape[0]
    side = math.isqrt(t * h * w // count)  # patches per side of a token
    block = Block("video", (t, h // side, w // side), 0, count)
    groups = torch.zeros(count, dtype=torch.long)
    return TokenLayout(count + 1, torch.arange(count), torch.tensor([count]), (block,), groups)


def _why_not(share: float, budget: float, near: float, lightest: bool, hardest: bool) -> str:
    """Say what keeps a method from a budget, or "" when it is there."""
    if abs(share - budget) <= near * budget:
        return ""
    if lightest and share < budget:
        return f"at its lightest it leaves {percent(share, 1)} of the tokens"
    if hardest and share > budget:
        return f"at its hardest it leaves {percent(share, 1)} of the tokens"
    return f"the nearest it comes is {percent(share, 1)} of the tokens"
