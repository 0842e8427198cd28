"""SparseVLM's reference cases, of version 1.5 of the authors' code."""

from __future__ import annotations

from typing import Any

import torch

from prunevid_qwen.needs import Evidence
from prunevid_qwen.stage2_select import SparseVLM
from tests.method_reference import Case, Sequence, layout_of
from tests.tolerances import FEATURES, close


def schedule(params: dict[str, Any]) -> dict[str, Any]:
    """The options of a case: the authors' own table where it names one of its budgets, else its numbers."""
    if "retained_tokens" in params:
        return {"retained_tokens": params["retained_tokens"]}
    return {"kept": tuple(params["keep"]), "layers": tuple(range(1, len(params["keep"]) + 1))}


def check(case: Case) -> None:
    params = case.params
    layout = layout_of(params["v_start"], params["n_visual"], params["n_text"])
    reducer, embeds = SparseVLM(**schedule(params)), case["in.embeds"]
    query = reducer.needs.attention
    assert query is not None and (query.heads, query.rows, query.projections) == ("mean", "each", "own")
    raters = reducer.prepare(Evidence(layout, embeds[layout.visual], embeds[layout.question]))
    assert torch.equal(raters.nonzero()[:, 0], case["out.raters"])
    sequence = Sequence.of(layout, case["in.hidden"], reducer, raters)
    for stage in case.stages("in.attn"):
        before = sequence.layout
        rows = case[f"in.attn{stage}"].mean(0)[:, before.visual]  # [m, v]
        close(rows[raters].mean(0), case[f"out.score{stage}"], FEATURES)
        chosen = sequence.cut(rows.log())
        kept = case[f"out.keep{stage}"].numel()
        assert torch.equal(chosen.rep[:kept], case[f"out.keep{stage}"])
        assert torch.equal(chosen.target[chosen.rep[:kept]], torch.arange(kept))
        pool = case[f"out.pool{stage}"]
        assert torch.equal((chosen.target >= kept).nonzero()[:, 0], pool.sort().values)
        assert torch.equal(chosen.target[pool] - kept, case[f"out.pool_cluster{stage}"])
        close(sequence.hidden[sequence.layout.visual[kept:]], case[f"out.recycled{stage}"], FEATURES)
        close(sequence.hidden, case[f"out.hidden{stage}"], FEATURES)
        assert torch.equal(torch.arange(sequence.layout.length), case[f"out.positions{stage}"])
