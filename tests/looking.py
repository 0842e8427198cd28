"""Small methods that choose by each kind of evidence, for the oracles of a whole model."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from prunevid_qwen.forward.plan import Step
from prunevid_qwen.needs import AttentionQuery, Evidence, Needs, VisionQuery
from prunevid_qwen.tokens import TokenMap
from prunevid_qwen.tokens.trace import DOOR
from tests.tolerances import apart


class Best:
    """Keeps a share of each sample's visual tokens, those of the highest score; asserts that they are told apart."""

    needs: ClassVar[Needs] = Needs()

    def __init__(self, keep_ratio: float) -> None:
        self.keep_ratio = keep_ratio

    def score(self, seen: Evidence) -> Tensor:
        """[N] fp32."""
        raise NotImplementedError

    def plan(self, seen: Evidence) -> TokenMap:
        score = self.score(seen)
        assert score.shape == (seen.hidden.shape[0],) and score.dtype == torch.float32
        count = max(1, int(score.numel() * self.keep_ratio))

        def choose(each: Tensor) -> Tensor:
            return each.argsort(descending=True, stable=True)[:count].sort().values

        if count < score.numel():
            apart(choose, score)
        return TokenMap.keep(choose(score), score.numel())


class NextLayer(Best):
    """By the next layer's attention of the last token; at the door that of layer 0 on the embeddings."""

    needs = Needs(AttentionQuery(heads="mean", rows="last", projections="next"))

    def score(self, seen: Evidence) -> Tensor:
        assert seen.attention is not None
        return seen.attention


class Rated(Best):
    """By the attention of those text tokens, chosen once at the door, that are most like the visual ones."""

    needs = Needs(AttentionQuery(heads="mean", rows="each", top_heads=3), question="all")

    def prepare(self, seen: Evidence) -> Tensor:
        likeness = (seen.hidden.float() @ seen.question.float().T).softmax(-1).mean(0)
        return likeness >= likeness.mean()

    def score(self, seen: Evidence) -> Tensor:
        assert seen.attention is not None and seen.note.dtype == torch.bool
        rated = seen.note.float()[:, None]
        return ((seen.attention.exp() * rated).sum(0) / rated.sum()).log()


class Received(Best):
    """By the attention that tokens get in the vision tower, and their keys, and the decoder's."""

    needs = Needs(vision=VisionQuery((-1,), what=("received", "keys")), keys=True)

    def score(self, seen: Evidence) -> Tensor:
        assert seen.vision is not None and seen.keys is not None
        of_heads: Any = seen.keys.float().norm(dim=-1).mean(0)
        return seen.vision["received"][0] + 0.01 * seen.vision["keys"][0].norm(dim=-1) + 0.01 * of_heads


RATED = Rated(0.7)  # one reducer, two steps
LOOKING = (Step(DOOR, NextLayer(0.8)), Step(1, RATED), Step(2, NextLayer(0.7)), Step(3, Received(0.7)), Step(4, RATED))
