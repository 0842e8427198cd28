"""PyramidDrop's reference cases."""

from __future__ import annotations

import torch
from torch import Tensor

from prunevid_qwen.kernels.question_attention import question_attention
from prunevid_qwen.stage2_select import PyramidDrop
from prunevid_qwen.tokens import TokenLayout
from tests.method_reference import Case, Sequence, layout_of
from tests.tolerances import FEATURES, close


def next_attention(case: Case, stage: int, layout: TokenLayout, hidden: Tensor) -> Tensor:
    """The last token's attention by the next layer's norm and projections, positions counted anew; [N] logarithms."""
    heads, base = case.params["heads"], case.params["rope_base"]
    normed = (
        hidden * (hidden.square().mean(-1, keepdim=True) + case.params["rms_eps"]).rsqrt() * case[f"in.norm{stage}"]
    )
    width = hidden.shape[1] // heads
    angle = torch.arange(layout.length)[:, None] * base ** (-torch.arange(0, width, 2) / width)
    cos, sin = angle.cos().repeat(1, 2), angle.sin().repeat(1, 2)

    def rotated(weight: Tensor) -> Tensor:
        x = (normed @ weight.T).view(layout.length, heads, width).transpose(0, 1)
        one, other = x.chunk(2, -1)
        return x * cos + torch.cat([-other, one], -1) * sin

    q, k = rotated(case[f"in.wq{stage}"]), rotated(case[f"in.wk{stage}"])
    last = layout.question[-1:]
    return question_attention(q[:, last], k, layout.visual, last, width**-0.5, heads="mean", rows="last")


def check(case: Case) -> None:
    params, stages = case.params, list(case.stages("in.norm"))
    layout = layout_of(params["start"], params["n_visual"], params["n_text"])
    layers = tuple(range(1, len(stages) + 1))
    reducer = PyramidDrop(ratios=tuple(params["ratios"]), layers=layers)
    query = reducer.needs.attention
    assert query is not None and (query.heads, query.rows, query.projections) == ("mean", "last", "next")
    sequence = Sequence.of(layout, case["in.hidden"], reducer)
    for stage in stages:
        before = sequence.layout
        attention = next_attention(case, stage, before, sequence.hidden)
        close(attention.exp(), case[f"out.score{stage}"], FEATURES)
        chosen = sequence.cut(attention)
        assert chosen.is_selection
        assert torch.equal(before.visual[chosen.rep], case[f"out.keep{stage}"])
        assert torch.equal(sequence.origin, case[f"out.orig_index{stage}"])
        assert torch.equal(torch.arange(sequence.layout.length), case[f"out.positions{stage}"])
