"""Reference cases of VScan's second step on Qwen2.5-VL.

``in.hidden`` [L, d] and the next layer's norm and projections (``in.norm``, ``in.wq``, ``in.bq``, ``in.wk``,
``in.bk``), ``in.position_ids`` [3, L]. ``out.score`` [n], ``out.keep`` (seq of the visual tokens kept),
``out.position_ids`` and ``out.hidden`` of what is left.
"""

from __future__ import annotations

import torch

from prunevid_qwen.kernels.question_attention import question_attention
from prunevid_qwen.stage2_select import VScan
from tests.method_reference import Case, Sequence, layout_of
from tests.tolerances import FEATURES, close


def check(case: Case) -> None:
    params, hidden = case.params, case["in.hidden"]
    layout = layout_of(params["start"], params["n_visual"], hidden.shape[0] - params["start"] - params["n_visual"])
    reducer = VScan(keep_ratio=params["ratio"])
    query = reducer.needs.attention
    assert query is not None
    assert (query.source, query.heads, query.rows, query.projections) == ("pre_rope", "mean", "last", "next")
    normed = hidden * (hidden.square().mean(-1, keepdim=True) + params["rms_eps"]).rsqrt() * case["in.norm"]
    last, width = layout.question[-1:], params["head_dim"]
    q = (normed[last] @ case["in.wq"].T + case["in.bq"]).view(1, params["heads"], width).transpose(0, 1)
    k = (normed @ case["in.wk"].T + case["in.bk"]).view(-1, params["kv_heads"], width).transpose(0, 1)
    attention = question_attention(q, k, layout.visual, None, width**-0.5, query.heads, query.rows)
    close(attention.exp(), case["out.score"], FEATURES)
    sequence = Sequence.of(layout, hidden, reducer)
    chosen = sequence.cut(attention)
    assert torch.equal(layout.visual[chosen.rep], case["out.keep"])
    assert torch.equal(case["in.position_ids"][:, sequence.origin], case["out.position_ids"])
    assert torch.equal(sequence.hidden, case["out.hidden"])
