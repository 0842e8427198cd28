"""What was asked of each stage, by a config or by a plan: a receipt holds what happened against it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

import prunevid_qwen.stage1_merge
import prunevid_qwen.stage2_select  # noqa: F401  importing a stage enters its methods in the registry
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.config.method_base import fixed_share
from prunevid_qwen.forward.plan import Plan, Step
from prunevid_qwen.reducer import is_reducer, made_by, most, registered_as, says, why_unchanged
from prunevid_qwen.tokens import Block, TokenLayout
from prunevid_qwen.tokens.trace import DOOR, Reduction, SampleTrace


@dataclass(frozen=True)
class Stage:
    """One method that was asked for.

    Args:
        number: 1 at the decoder's door, 2 inside the decoder.
        name: of the method.
        own: its options; the reducer itself where it was made by hand.
        config: that the options are part of, if they are.
        at: where it stands, as `Step.at`; None for a selector of a config, whose places depend on the model.
    """

    number: int
    name: str
    own: Any
    config: PruneVidConfig | None = None
    at: int | None = None

    @property
    def count(self) -> int | None:
        """The tokens of each video and image that a step is to leave, where the budget is such a count."""
        found: int | None = getattr(self.own, "keep_tokens", None)
        return None if getattr(self.own, "averages", False) else found

    @property
    def share(self) -> float | None:
        """The share that is asked for; None where there is none, or what is seen decides."""
        found: float | None = getattr(self.own, "cluster_ratio", None) if self.number == 1 else None
        return fixed_share(self.own) if found is None or self.count is not None else found

    @property
    def threshold(self) -> float | None:
        """The probability above which tokens are kept, where that decides."""
        found: float | None = getattr(self.own, "keep_threshold", None) if self.share is None else None
        return found

    @property
    def lever(self) -> str | None:
        """The option that spends the budget."""
        return says(self.own, self.number).lever if self.count is None else "keep_tokens"

    @property
    def selects(self) -> bool:
        """Whether it is registered as a selector, wherever it stands: then images are its matter as videos are."""
        return (registered_as(type(self.own)) or (1, ""))[0] == 2

    @property
    def merges(self) -> bool:
        """Whether the method may merge between two layers."""
        return bool(getattr(self.own, "merges_inside", getattr(self.own, "merges", False)))

    @property
    def asks(self) -> str:
        """The lever and its value in words, or ""."""
        return "" if self.lever is None else f"{self.lever}={getattr(self.own, self.lever)}"

    def most(self, layout: TokenLayout, step: int) -> int | None:
        """Return how many tokens may be left at most; None: what is seen decides."""
        return most(self.own, layout, step)

    def why_unchanged(self, blocks: Sequence[Block]) -> str | None:
        """Say why a merger may leave these videos and images as they came; None: it may not."""
        return why_unchanged(self.own if is_reducer(self.own) else made_by(self.own, 1, self.config), blocks)


@dataclass(frozen=True)
class Stages:
    """All that was asked for.

    Args:
        door: stage 1, or None.
        cuts: stage 2: of a config one method, however often it cuts; of a plan one for each step between the layers.
        compress: stage 3.
    """

    door: Stage | None
    cuts: tuple[Stage, ...]
    compress: bool

    @classmethod
    def of(cls, what: PruneVidConfig | Plan) -> Stages:
        """Read them from options or a plan."""
        if isinstance(what, Plan):
            door = None if what.door is None else _stage(what.door)
            return cls(door, tuple(_stage(step) for step in what.cuts), what.compress)
        merger, selector = what.merger, what.selector
        door = None if merger is None else Stage(1, what.merger_name or "", merger, what, DOOR)
        cuts = () if selector is None else (Stage(2, what.selector_name or "", selector, what),)
        return cls(door, cuts, what.compress_cache)

    @property
    def all(self) -> tuple[Stage, ...]:
        """Stages 1 and 2, as far as they were asked for."""
        return (() if self.door is None else (self.door,)) + self.cuts

    def of_reduction(self, reduction: Reduction) -> Stage | None:
        """Return whose a reduction is; None: nobody's who was asked for."""
        if reduction.at == DOOR:
            return self.door
        return next((stage for stage in self.cuts if stage.at in (None, reduction.at)), None)

    def done(self, sample: SampleTrace) -> Iterator[tuple[Stage, int, int]]:
        """Go through what was done to a sample: whose each reduction is, its number, and which of that method's."""
        methods: list[Any] = []
        for number, reduction in enumerate(sample.reductions):
            stage = self.of_reduction(reduction)
            if stage is not None:
                yield stage, number, sum(own is stage.own for own in methods)
                methods.append(stage.own)


def _stage(step: Step) -> Stage:
    own = step.by if step.options is None else step.options
    return Stage(1 if step.at == DOOR else 2, step.name, own, None, step.at)


def layout_before(sample: SampleTrace, number: int) -> TokenLayout:
    """Return what came to a reduction of a sample: its videos and images with what was left of them, on the CPU.

    The text around them and what competes with what are not kept: there is no text, and one stratum.

    Args:
        sample: of a trace.
        number: of the reduction, from 0.
    """
    blocks = sample.blocks
    for each in sample.reductions[:number]:
        rep, ends = each.map.rep.cpu(), torch.tensor([block.stop for block in blocks], device="cpu")
        stops = torch.searchsorted(rep.sort().values, ends).tolist()
        starts = [0, *stops[:-1]]
        blocks = tuple(Block(b.kind, b.grid, *span) for b, *span in zip(blocks, starts, stops, strict=True))
    n = blocks[-1].stop if blocks else 0
    places = torch.arange(n, device="cpu")
    return TokenLayout(n, places, places[:0], blocks, torch.zeros_like(places))
