"""VScan's reference cases of stage 1 on CLIP: the CLS rows of blocks 5 and -2, [heads, 576], windows of 6 x 6.

Where the local half does not divide by the windows, the authors keep fewer tokens than asked for.
"""

from __future__ import annotations

import torch

from prunevid_qwen.kernels.cosines import nearest_by_cosine
from prunevid_qwen.stage1_merge import VScanMerge
from prunevid_qwen.stage1_merge.frames import merged_map
from prunevid_qwen.stage1_merge.vscan import best_of_each, best_of_others, windows_of
from tests.method_reference import Case
from tests.reference_cases.vscan_qwen import scanned
from tests.tolerances import FEATURES, close


def check(case: Case) -> None:
    tokens, grid, size, asked = case["in.tokens"], case.params["grid"], case.params["window"], case.params["keep"]
    scores = [case[f"in.attn_{half}"].mean(0) for half in ("local", "global")]
    local = best_of_each(scores[0][None], windows_of(*grid, size), [asked // 2])
    count = int(local.sum()) + asked - asked // 2
    others = best_of_others(scores[1][None], local, [count])
    kept = local | others
    for mask, name in ((local, "local"), (others, "global_"), (kept, "keep")):
        assert torch.equal(mask[0].nonzero()[:, 0], case[f"out.{name}"])
    close(
        merged_map(kept, nearest_by_cosine(tokens[None], kept, count), count).mean(tokens), case["out.tokens"], FEATURES
    )
    reducer = VScanMerge(keep_tokens=asked, window_size=size, window_budget="equal")
    chosen = scanned(reducer, tokens, grid, scores)
    assert chosen.n_out == asked
    if count == asked:
        assert torch.equal(chosen.rep, case["out.keep"])
        close(chosen.mean(tokens), case["out.tokens"], FEATURES)
