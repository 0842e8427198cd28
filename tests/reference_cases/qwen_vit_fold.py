"""From patches in Qwen2.5-VL's window order to tokens in raster order: the scores of VisionZip and VScan, and keys.

`in.attn` [H, 4n, 4n] is after softmax; `in.window_index` [n] is the token of the raster at each place.
"""

from __future__ import annotations

from prunevid_qwen.adapters.windows import in_raster
from tests.method_reference import Case
from tests.tolerances import FEATURES, close


def check(case: Case) -> None:
    attention, order = case["in.attn"], case["in.window_index"]
    heads, patches, _ = attention.shape
    received = in_raster(attention.mean((0, 1))[:, None], 4, order)[:, 0]
    close(received * patches, case["out.visionzip_score"], FEATURES)  # theirs adds up queries
    close(received * heads, case["out.vscan_score"], FEATURES)  # theirs adds up heads
    close(in_raster(case["in.keys"].mean(0), 4, order), case["out.visionzip_metric"], FEATURES)
