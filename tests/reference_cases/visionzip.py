"""VisionZip's reference cases on CLIP. A decoder is not shown CLS, which the authors count as a dominant token.

`in.attn_cls_row` [B, H, 1+n], `in.keys_mean` [B, 1+n, dk] and `in.hidden` [B, 1+n, d] begin with CLS. `out.tokens`: the
dominant ones, CLS first, then of each target the sum of itself and the mean of what is assigned to it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from prunevid_qwen.needs import Evidence
from prunevid_qwen.stage1_merge import VisionZip
from prunevid_qwen.tokens import TokenMap
from tests.method_reference import Case, layout_of
from tests.tolerances import FEATURES, close


def zipped(score: Tensor, keys: Tensor, dominant: int, contextual: int) -> TokenMap:
    """Let the reducer decide about one image of n tokens."""
    count = dominant + contextual
    reducer = VisionZip(keep_tokens=count, contextual_share=(contextual + 0.5) / count)
    assert reducer.needs.vision is not None and reducer.needs.vision.kinds == ("salience", "keys")
    states = torch.zeros(len(score), 1)  # which tokens are chosen does not depend on what the decoder is shown
    seen = Evidence(
        layout_of(0, len(score), 1), states, states[:0], vision={"salience": score[None], "keys": keys[None]}
    )
    return reducer.plan(seen)


def check(case: Case) -> None:
    dominant, contextual = case.params["dominant"] - 1, case.params["contextual"]
    score = case["in.attn_cls_row"].sum(1)[:, 1:]
    close(score, case["out.cls_score"], FEATURES)
    for b in range(case.params["batch"]):
        chosen = zipped(score[b], case["in.keys_mean"][b, 1:], dominant, contextual)
        leads, targets = case["out.dominant"][b, 1:] - 1, case["out.targets"][b] - 1
        assert torch.equal(chosen.rep, torch.cat([leads, targets]).sort().values)
        merged_into = chosen.rep[chosen.target[case["out.merged_from"][b] - 1]]
        assert torch.equal(merged_into, targets[case["out.assigned"][b]])
        place = torch.searchsorted(chosen.rep, torch.cat([leads, targets]))
        close(chosen.mean(case["in.hidden"][b, 1:])[place], case["out.tokens"][b, 1:], FEATURES)
