"""The authors' own answers for FastV, PyramidDrop and SparseVLM: choices exactly, numbers to the table's tolerance.

``--reference FILE`` runs all cases of another file of this structure.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from prunevid_qwen.config.schedules import TABLE
from prunevid_qwen.kernels.question_attention import question_attention
from prunevid_qwen.needs import Evidence
from prunevid_qwen.stage2_select import FastV, PyramidDrop, SparseVLM
from prunevid_qwen.tokens import TokenLayout
from tests.method_reference import EXTRACT, Case, Sequence, cases, constant, default_file, layout_of
from tests.tolerances import FEATURES, close

METHODS = ("fastv", "pyramiddrop", "sparsevlm")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test of a method runs over all cases that the file has of it."""
    for method in METHODS:
        if method in metafunc.fixturenames:
            file = metafunc.config.getoption("reference") or default_file()
            found = cases(file, method)
            metafunc.parametrize(method, found, ids=[f"{method}{case.number}" for case in found])


# ---- FastV


def test_fastv(fastv: Case) -> None:
    params = fastv.params
    layout = layout_of(params["start"], params["n_visual"], params["n_text"])
    score = fastv["in.attn_last_row"].mean(0)[layout.visual]
    close(score, fastv["out.score"], FEATURES)
    kept = round(params["n_visual"] * (1 - params["r"]))  # Python's rounding, where keep_ratio rounds down
    sequence = Sequence.of(layout, fastv["in.hidden"], FastV(keep_tokens=kept))
    sequence.cut(score.log())
    assert torch.equal(sequence.origin, fastv["out.keep"])
    assert torch.equal(sequence.origin, fastv["out.position_ids"])
    assert torch.equal(sequence.hidden, fastv["out.hidden"])


# ---- PyramidDrop


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


def test_pyramiddrop(pyramiddrop: Case) -> None:
    params, stages = pyramiddrop.params, list(pyramiddrop.stages("in.norm"))
    layout = layout_of(params["start"], params["n_visual"], params["n_text"])
    layers = tuple(range(1, len(stages) + 1))
    reducer = PyramidDrop(ratios=tuple(params["ratios"]), layers=layers)
    query = reducer.needs.attention
    assert query is not None and (query.heads, query.rows, query.projections) == ("mean", "last", "next")
    sequence = Sequence.of(layout, pyramiddrop["in.hidden"], reducer)
    for stage in stages:
        before = sequence.layout
        attention = next_attention(pyramiddrop, stage, before, sequence.hidden)
        close(attention.exp(), pyramiddrop[f"out.score{stage}"], FEATURES)
        chosen = sequence.cut(attention)
        assert chosen.is_selection
        assert torch.equal(before.visual[chosen.rep], pyramiddrop[f"out.keep{stage}"])
        assert torch.equal(sequence.origin, pyramiddrop[f"out.orig_index{stage}"])
        assert torch.equal(torch.arange(sequence.layout.length), pyramiddrop[f"out.positions{stage}"])


# ---- SparseVLM


def schedule(params: dict[str, Any]) -> dict[str, Any]:
    """The options of a case: the authors' own table where it names one of its budgets, else its numbers."""
    if "retained_tokens" in params:
        return {"retained_tokens": params["retained_tokens"]}
    return {"kept": tuple(params["keep"]), "layers": tuple(range(1, len(params["keep"]) + 1))}


def test_sparsevlm(sparsevlm: Case) -> None:
    params = sparsevlm.params
    layout = layout_of(params["v_start"], params["n_visual"], params["n_text"])
    reducer, embeds = SparseVLM(**schedule(params)), sparsevlm["in.embeds"]
    query = reducer.needs.attention
    assert query is not None and (query.heads, query.rows, query.projections) == ("mean", "each", "own")
    raters = reducer.prepare(Evidence(layout, embeds[layout.visual], embeds[layout.question]))
    assert torch.equal(raters.nonzero()[:, 0], sparsevlm["out.raters"])
    sequence = Sequence.of(layout, sparsevlm["in.hidden"], reducer, raters)
    for stage in sparsevlm.stages("in.attn"):
        before = sequence.layout
        rows = sparsevlm[f"in.attn{stage}"].mean(0)[:, before.visual]  # [m, v]
        close(rows[raters].mean(0), sparsevlm[f"out.score{stage}"], FEATURES)
        chosen = sequence.cut(rows.log())
        kept = sparsevlm[f"out.keep{stage}"].numel()
        assert torch.equal(chosen.rep[:kept], sparsevlm[f"out.keep{stage}"])
        assert torch.equal(chosen.target[chosen.rep[:kept]], torch.arange(kept))
        pool = sparsevlm[f"out.pool{stage}"]
        assert torch.equal((chosen.target >= kept).nonzero()[:, 0], pool.sort().values)
        assert torch.equal(chosen.target[pool] - kept, sparsevlm[f"out.pool_cluster{stage}"])
        close(sequence.hidden[sequence.layout.visual[kept:]], sparsevlm[f"out.recycled{stage}"], FEATURES)
        close(sequence.hidden, sparsevlm[f"out.hidden{stage}"], FEATURES)
        assert torch.equal(torch.arange(sequence.layout.length), sparsevlm[f"out.positions{stage}"])


def test_the_tables_are_the_authors(request: pytest.FixtureRequest) -> None:
    file = request.config.getoption("reference") or default_file()
    for version in ("v15", "main"):
        budgets, kept = (constant(file, f"sparsevlm.table.{version}.{name}") for name in ("budget", "keep"))
        assert budgets is not None and kept is not None
        assert all(TABLE[budget] == tuple(row) for budget, row in zip(budgets.tolist(), kept.tolist(), strict=True))
    assert set(TABLE) == set(budgets.tolist())


def test_the_extract_has_cases_of_both() -> None:
    assert all(cases(EXTRACT, method) for method in ("pyramiddrop", "sparsevlm"))
