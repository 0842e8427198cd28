"""Reference cases of HoliTom's inner merge.

``in.attn_last_row`` [H, L] of the layer before, ``in.hidden`` [L, d]. ``out.score`` [n], ``out.merged_from`` (seq,
dropped ones), ``out.merged_into`` (seq), ``out.keep`` (seq), ``out.hidden`` of what is left.
"""

from __future__ import annotations

import torch

from prunevid_qwen.stage2_select import HoliTom
from tests.method_reference import Case, Sequence, layout_of
from tests.tolerances import FEATURES, close


def check(case: Case) -> None:
    params = case.params
    layout = layout_of(params["start"], params["n_visual"], params["n_text"])
    score = case["in.attn_last_row"].mean(0)[layout.visual]
    close(score, case["out.score"], FEATURES)
    kept = round(params["n_visual"] * (1 - params["r"]))  # Python's rounding, where keep_ratio rounds down
    sequence = Sequence.of(layout, case["in.hidden"], HoliTom(keep_tokens=kept))
    chosen = sequence.cut(score.log())
    assert torch.equal(sequence.origin, case["out.keep"])
    start = params["start"]
    dropped = case["out.merged_from"] - start
    assert torch.equal(dropped, (~torch.isin(torch.arange(params["n_visual"]), chosen.rep)).nonzero()[:, 0])
    assert torch.equal(chosen.rep[chosen.target[dropped]] + start, case["out.merged_into"])
    close(sequence.hidden, case["out.hidden"], FEATURES)
