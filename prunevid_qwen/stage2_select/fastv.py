"""FastV (arXiv 2403.06764, section 4): keep what the last token of the prompt attends to."""

from __future__ import annotations

from dataclasses import dataclass

from prunevid_qwen.config.methods import FastVOptions
from prunevid_qwen.reducer import AttentionQuery, Evidence, Needs, register
from prunevid_qwen.stage2_select.topk import topk_of_each
from prunevid_qwen.tokens import TokenMap


@register("fastv", FastVOptions)
@dataclass(frozen=True)
class FastV(FastVOptions):
    """FastV's selection: the attention of the last question token, averaged over heads, decides.

    Written from the paper. The budget is ``max(1, int(n * keep_ratio))`` of each video or image, where the paper counts
    all tokens of its one image.

    Options: see `FastVOptions`.
    """

    @property
    def needs(self) -> Needs:
        """The model's own attention from the last token of the question, mean over heads; nothing if all are kept."""
        if self.keep_ratio == 1:
            return Needs()
        return Needs(AttentionQuery("post_rope", heads="mean", rows="last"))

    def plan(self, seen: Evidence) -> TokenMap:
        """Keep the tokens of each video and image that the last question token attends to most.

        Raises:
            ValueError: the evidence holds no attention.
        """
        if self.keep_ratio == 1:
            return TokenMap.identity(seen.layout.visual.numel(), seen.layout.visual.device)
        if seen.attention is None:
            raise ValueError("fastv selects by attention: gather what its `needs` asks for")
        index = topk_of_each(seen.attention, seen.layout.blocks, self.keep_ratio, self.keep_tokens)
        return TokenMap.keep(index, seen.attention.numel())
