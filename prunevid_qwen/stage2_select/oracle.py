"""Selection by somebody who knows: the upper end of every comparison, and the way to prune by boxes or by hand."""

from __future__ import annotations

from dataclasses import dataclass, field

from prunevid_qwen.config.methods import OracleOptions
from prunevid_qwen.reducer import Evidence, Needs, register
from prunevid_qwen.stage2_select.threshold import Budget
from prunevid_qwen.tokens import TokenMap


@register("oracle", OracleOptions)
@dataclass(frozen=True)
class Oracle:
    """Keep what the caller of `pruned` marked: true boxes, a mask that a user drew, another model's decision.

    GlimpsePrune's authors prune by true boxes in this way (arXiv 2508.01548, GlimpsePrune+).

    Args:
        budget: threshold, cap, floor or fixed share; marks are the probabilities.
    """

    budget: Budget = field(default_factory=Budget)

    @classmethod
    def from_options(cls, options: OracleOptions) -> Oracle:
        """Take the budget from the options."""
        return cls(Budget.of(options))

    @property
    def needs(self) -> Needs:
        """The caller's marks; nothing where all are kept."""
        return Needs(marks=self.budget.keep_ratio != 1)

    def plan(self, seen: Evidence) -> TokenMap:
        """Keep the marked tokens.

        Raises:
            ValueError: the evidence holds no marks.
        """
        if self.budget.keep_ratio == 1:
            return TokenMap.identity(seen.layout.visual.numel(), seen.layout.visual.device)
        if seen.marks is None:
            raise ValueError("oracle selects by marks: gather what its `needs` asks for")
        return TokenMap.keep(self.budget.choose(seen.marks, seen.marks, seen.layout), seen.marks.numel())
