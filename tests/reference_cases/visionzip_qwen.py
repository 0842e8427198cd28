"""VisionZip's reference cases on Qwen2.5-VL: scores and keys of merged tokens in raster order, no CLS.

`out.keep_seq` are places in the sequence; dominant tokens and targets stay where they stand.
"""

from __future__ import annotations

import torch

from tests.method_reference import Case, layout_of
from tests.reference_cases.visionzip import zipped
from tests.tolerances import FEATURES, close


def check(case: Case) -> None:
    params, layout = case.params, layout_of(case.params["start"], case.params["n"], case.params["n_text"])
    dominant = int(params["n"] * params["dominant_ratio"])
    contextual = max(1, int(params["n"] * params["contextual_ratio"]))
    chosen = zipped(case["in.score"], case["in.metric"], dominant, contextual)
    assert torch.equal(chosen.rep, torch.cat([case["out.dominant"], case["out.targets"]]).sort().values)
    left, whole = layout.apply(chosen)
    assert torch.equal(whole.rep, case["out.keep_seq"])
    assert torch.equal(whole.take(case["in.position_ids"], 1), case["out.position_ids"])
    close(layout.made(case["in.embeds"], chosen, left, whole), case["out.embeds"], FEATURES)
