"""FastVID's salience for Qwen2.5-VL: ``in.q`` and ``in.k`` [F*4p, H, d] in the tower's order, ``out.attn`` [F, p]."""

from __future__ import annotations

from math import prod

from prunevid_qwen.kernels.pooled_attention import pooled_attention
from tests.method_reference import Case
from tests.tolerances import FEATURES, close


def check(case: Case) -> None:
    frames, size, width = case.params["frames"], prod(case.params["grid"]), case.params["head_dim"]
    queries, keys = (case[name].transpose(0, 1) for name in ("in.q", "in.k"))
    found = pooled_attention(queries, keys, [4 * size] * frames, 4, width**-0.5)
    close(found[case["in.window_index"].argsort()].view(frames, size), case["out.attn"], FEATURES)
