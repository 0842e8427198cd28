"""SparseVLM+'s reference cases: version 2.0 of the authors' code.

``in.embeds`` [L, d] for the raters; of each stage ``in.attn`` [H, m, L_s], the text's rows. ``out.raters`` (text),
``out.gravity`` [m, v], ``out.head_sum`` [H] over raters and visual tokens, ``out.heads``, ``out.score`` [v],
``out.keep`` (span), ``out.positions`` and ``out.seq_len`` of the whole sequence.
"""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor

from prunevid_qwen.adapters.text_decoder import TextDecoder
from prunevid_qwen.kernels.question_attention import LEAST_GRAVITY, reduced
from prunevid_qwen.needs import Evidence
from prunevid_qwen.stage2_select import SparseVLMPlus
from tests.method_reference import Case, Sequence, layout_of
from tests.tolerances import FEATURES, close


class Decoder(TextDecoder):
    """As much of a family as rotary embedding asks for."""

    def __init__(self, width: int) -> None:
        self.parts = SimpleNamespace(layers=[SimpleNamespace(self_attn=SimpleNamespace(head_dim=width))])  # type: ignore[assignment]


def rotated_ones(positions: Tensor, width: int, base: float) -> Tensor:
    """All-ones states at these positions, [n, d], rotated as the adapters rotate."""
    angle = positions[:, None] * base ** (-torch.arange(0, width, 2).double() / width)
    rope = angle.cos().repeat(1, 2).float(), angle.sin().repeat(1, 2).float()
    return Decoder(width).rotated_ones(0, rope)  # type: ignore[abstract]


def check(case: Case) -> None:
    params = case.params
    layout = layout_of(params["v_start"], params["n_visual"], params["n_text"])
    kept, width = tuple(params["keep"]), params["head_dim"]
    reducer = SparseVLMPlus(kept=kept, layers=(1, 2, 3), priority_heads=params["priority_heads"])
    query, embeds = reducer.needs.attention, case["in.embeds"]
    assert query is not None and query.gravity and query.top_heads == params["priority_heads"]
    assert (query.heads, query.rows, query.tokens, query.projections) == ("mean", "mean", "noted", "own")
    raters = reducer.prepare(Evidence(layout, embeds[layout.visual], embeds[layout.question]))
    assert torch.equal(raters.nonzero()[:, 0], case["out.raters"])
    sequence = Sequence.of(layout, case["in.hidden"], reducer, raters)
    for stage in case.stages("in.attn"):
        before = sequence.layout
        ones = rotated_ones(sequence.origin, width, params["rope_base"])
        pull = ones[before.question] @ ones[before.visual].T * width**-0.5
        close(pull, case[f"out.gravity{stage}"], FEATURES)
        p = case[f"in.attn{stage}"][..., before.visual]
        sums = (p / pull.clamp(min=LEAST_GRAVITY))[:, raters].sum((1, 2))
        close(sums, case[f"out.head_sum{stage}"], FEATURES)
        best = sums.argsort(descending=True)[: params["priority_heads"]].sort().values
        assert torch.equal(best, case[f"out.heads{stage}"])
        score = reduced(p, query.heads, query.rows, params["priority_heads"], raters, pull)
        close(score, case[f"out.score{stage}"], FEATURES)
        chosen = sequence.cut(score.log())
        assert torch.equal(chosen.rep, case[f"out.keep{stage}"])
        assert torch.equal(sequence.origin, case[f"out.positions{stage}"])
        assert sequence.layout.length == int(case[f"out.seq_len{stage}"])
