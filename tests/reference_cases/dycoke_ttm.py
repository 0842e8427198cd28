"""DyCoke's reference cases: ``in.tokens`` [F, p, d]; ``out.keep``, raster indices of the tokens that the authors keep.

Their code does not compare the third frame of the last group if F is a multiple of 4, and loses the last frame if F is
odd. There our rule, which has neither fault, is compared on the other frames alone.
"""

from __future__ import annotations

import torch

from prunevid_qwen.stage1_merge import DyCoke
from tests.method_reference import Case, decided


def check(case: Case) -> None:
    params, tokens = case.params, case["in.tokens"]
    frames, size, _ = tokens.shape
    share = 1 - params["k"]
    assert int(share * size) == params["keep_per_pruned_frame"]
    step = decided(DyCoke(frame_keep_ratio=share), tokens)
    compared = torch.ones(frames, dtype=torch.bool)
    if params["last_frame_dropped"]:
        compared[-1] = False
    elif not params["last_group_third_frame_pruned"]:
        compared[-2] = False
    ours, theirs = (kept[compared[kept // size]] for kept in (step.rep, case["out.keep"]))
    assert step.is_selection and torch.equal(ours, theirs)
    counts = torch.bincount(step.rep // size, minlength=frames)
    assert torch.equal(counts[compared], case["out.kept_per_frame"][compared])
    assert counts[::4].eq(size).all() and all(counts[at::4].eq(int(share * size)).all() for at in (1, 2, 3))
