"""PyramidDrop (arXiv 2410.17247): several cuts, by what the prompt's last token would attend to in the next layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from prunevid_qwen.config.schedules import PyramidDropOptions
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.reducer import AttentionQuery, Evidence, Needs, register
from prunevid_qwen.stage2_select.schedule import Schedules, check_budget, entered, spending
from prunevid_qwen.stage2_select.topk import best_of_each
from prunevid_qwen.tokens import TokenMap


@register("pyramiddrop", PyramidDropOptions)
@dataclass(frozen=True)
class PyramidDrop(PyramidDropOptions):
    """PyramidDrop's selection, written from the paper and a description of its authors' code.

    Each video or image has its own budget, where the paper has one image. Tokens keep their positions, unless the plan
    packs them: the authors' code numbers what is left anew.

    Options: see `PyramidDropOptions`.
    """

    several: ClassVar[bool] = True

    @property
    def needs(self) -> Needs:
        """The next layer's attention from the last token of the prompt, mean over heads; nothing if all are kept."""
        if self.keep_ratio == 1:
            return Needs()
        return Needs(AttentionQuery("post_rope", heads="mean", rows="last", projections="next"))

    def check_places(self, places: Sequence[int], depth: int) -> None:
        """Refuse a number of cuts that the ratios are not for, and a budget that these cuts cannot meet.

        Raises:
            ConfigError: so it is.
        """
        if self.keep_ratio is not None or self.keep_tokens is not None:
            check_budget(_powers(len(places)), self, places, depth, "pyramiddrop")
        elif len(places) != len(self.ratios):
            raise ConfigError(
                f"pyramiddrop has ratios={self.ratios} and {len(places)} steps: one ratio is for one step"
            )

    def plan(self, seen: Evidence) -> TokenMap:
        """Keep the tokens of each video and image that the last token attends to most.

        Raises:
            ValueError: the evidence holds no attention.
            ConfigError: ``keep_tokens`` is below what the layers before the first cut see.
        """
        if self.keep_ratio == 1:
            return TokenMap.identity(seen.layout.visual.numel(), seen.layout.visual.device)
        if seen.attention is None:
            raise ValueError("pyramiddrop selects by attention: gather what its `needs` asks for")
        counts = [self._count(tokens, seen) for tokens in entered(seen)]
        return TokenMap.keep(best_of_each(seen.attention, seen.layout.blocks, counts), seen.attention.numel())

    def _count(self, tokens: int, seen: Evidence) -> int:
        """What this cut leaves of a video or image."""
        if self.keep_ratio is None and self.keep_tokens is None:
            return max(1, int(tokens * self.ratios[seen.step]))
        schedules = _powers(len(seen.steps_at) or 1)
        return schedules(tokens, spending(schedules, self, tokens, seen))[seen.step]


def _powers(cuts: int) -> Schedules:
    return lambda tokens, x: [max(1, int(tokens * x**cut)) for cut in range(1, cuts + 1)]
