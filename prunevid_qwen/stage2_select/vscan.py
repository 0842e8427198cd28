"""VScan's second step (arXiv 2505.22654): keep what the last token attends to in the middle of the decoder."""

from __future__ import annotations

from dataclasses import dataclass

from prunevid_qwen.config.method_options.vscan_inner import VScanOptions
from prunevid_qwen.reducer import AttentionQuery, Evidence, Needs, register
from prunevid_qwen.stage2_select.topk import topk_of_each
from prunevid_qwen.tokens import TokenMap


@register("vscan", VScanOptions)
@dataclass(frozen=True)
class VScan(VScanOptions):
    """VScan's selection inside the decoder, written from a description of its authors' code.

    The projections of the layer that follows score the tokens, by default before rotary embedding: the question's
    distance to a token then does not matter. Each video or image keeps ``max(1, int(n * keep_ratio))`` of its n tokens,
    as in the authors' code. State: one number for each token.

    Options: see `VScanOptions`.
    """

    @property
    def needs(self) -> Needs:
        """The next layer's attention from the last token of the prompt, mean over heads; nothing if all are kept."""
        if self.keep_ratio == 1:
            return Needs()
        return Needs(AttentionQuery(self.attention_source, heads="mean", rows="last", projections="next"))

    def plan(self, seen: Evidence) -> TokenMap:
        """Keep the tokens of each video and image that the last token attends to most.

        Raises:
            ValueError: the evidence holds no attention.
        """
        if self.keep_ratio == 1:
            return TokenMap.identity(seen.layout.visual.numel(), seen.layout.visual.device)
        if seen.attention is None:
            raise ValueError("vscan selects by attention: gather what its `needs` asks for")
        index = topk_of_each(seen.attention, seen.layout.blocks, self.keep_ratio, self.keep_tokens)
        return TokenMap.keep(index, seen.attention.numel())
