"""FastV's reference cases."""

from __future__ import annotations

import torch

from prunevid_qwen.stage2_select import FastV
from tests.method_reference import Case, Sequence, layout_of
from tests.tolerances import FEATURES, close


def check(case: Case) -> None:
    params = case.params
    layout = layout_of(params["start"], params["n_visual"], params["n_text"])
    score = case["in.attn_last_row"].mean(0)[layout.visual]
    close(score, case["out.score"], FEATURES)
    kept = round(params["n_visual"] * (1 - params["r"]))  # Python's rounding, where keep_ratio rounds down
    sequence = Sequence.of(layout, case["in.hidden"], FastV(keep_tokens=kept))
    sequence.cut(score.log())
    assert torch.equal(sequence.origin, case["out.keep"])
    assert torch.equal(sequence.origin, case["out.position_ids"])
    assert torch.equal(sequence.hidden, case["out.hidden"])
