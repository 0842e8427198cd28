"""VScan's reference cases of stage 1 on Qwen2.5-VL: two scores of the tokens of one image, in raster order."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from prunevid_qwen.needs import Evidence
from prunevid_qwen.stage1_merge import VScanMerge
from prunevid_qwen.stage1_merge.vscan import best_of_others, best_under_a_cap, windows_of
from prunevid_qwen.tokens import Block, TokenMap
from tests.method_reference import Case, layout_of
from tests.tolerances import FEATURES, close


def scanned(reducer: VScanMerge, tokens: Tensor, grid: list[int], scores: list[Tensor]) -> TokenMap:
    """Let the reducer decide about one image."""
    assert reducer.needs.vision is not None and reducer.needs.vision.kinds == ("salience",)
    height, width = grid
    block = Block("image", (1, height, width), 0, len(tokens))
    layout = dataclasses.replace(layout_of(0, len(tokens), 1), blocks=(block,))
    return reducer.plan(Evidence(layout, tokens, tokens[:0], vision={"salience": torch.stack(scores)}))


def check(case: Case) -> None:
    tokens, grid, size = case["in.tokens"], case.params["grid"], case.params["window"]
    count = int(case.params["ratio"] * len(tokens))
    local = best_under_a_cap(case["in.local"][None], windows_of(*grid, size), [count // 2])
    others = best_of_others(case["in.global"][None], local, [count])
    for mask, name in ((local, "local"), (others, "global_"), (local | others, "keep")):
        assert torch.equal(mask[0].nonzero()[:, 0], case[f"out.{name}"])
    reducer = VScanMerge(cluster_ratio=case.params["ratio"], window_size=size)
    chosen = scanned(reducer, tokens, grid, [case["in.local"], case["in.global"]])
    assert torch.equal(chosen.rep, case["out.keep"])
    close(chosen.mean(tokens), case["out.tokens"], FEATURES)
