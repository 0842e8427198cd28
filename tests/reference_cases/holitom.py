"""HoliTom's reference cases: a video whose frames are pooled already.

``in.tokens`` [F, p, d], ``in.attn`` [F, p], ``in.newline`` [d] where a newline ends each row of a grid. ``out.kept``
[M, 3] are frame, place and whether it is static; ``out.windows`` have the first and last frame of each window. Theirs
stand window by window, the static ones first; ours in the order of places, as those of a grid with newlines do.
"""

from __future__ import annotations

from math import isqrt

import torch
from torch import Tensor

from prunevid_qwen.needs import Evidence
from prunevid_qwen.stage1_merge import HoliTomMerge
from prunevid_qwen.stage1_merge.holitom import best_windows, followers, left_share, similarity, window_counts
from prunevid_qwen.tokens import Block, TokenLayout
from tests.method_reference import Case
from tests.tolerances import FEATURES, close


def check(case: Case) -> None:
    params, tokens, attention = case.params, case["in.tokens"], case["in.attn"]
    frames, places, _ = tokens.shape
    alike = similarity(tokens)
    close(alike, case["out.similarity"], FEATURES)
    windows, saved = best_windows(window_counts(followers(alike > params["tau"]), params["max_window"]))
    assert windows == [tuple(window) for window in case["out.windows"].tolist()]
    assert saved == int(case["out.saved"])
    share = left_share(frames * places, saved, params["retain_ratio"])
    close(share, float(case["out.adjusted_ratio"]), FEATURES, torch.float32)

    method = HoliTomMerge(
        cluster_ratio=params["retain_ratio"], tau=params["tau"], beta=None if params["plain_mean"] else params["beta"],
        dpc_knn_k=params["k"], max_window=params["max_window"], clustered_share=params["D"],
    )  # fmt: skip
    n = frames * places
    layout = TokenLayout(
        n + 1, torch.arange(n), torch.tensor([n]), (Block("video", (frames, 1, places), 0, n),), torch.zeros(n).long()
    )
    flat = tokens.flatten(0, 1)
    kept = method.plan(Evidence(layout, flat, flat[:0], vision={"received": attention.reshape(1, n)}))
    made = kept.mean(flat)
    order = (
        case["out.kept"][:, 0] * places + case["out.kept"][:, 1]
    ).argsort()  # theirs: window by window, static first
    wanted = case["out.kept"][order]
    assert torch.equal(kept.rep, wanted[:, 0] * places + wanted[:, 1])
    lengths = {first: last - first + 1 for first, last in windows}
    for frame, is_static, size in zip(*wanted[:, ::2].T.tolist(), kept.sizes.tolist(), strict=True):
        assert size % lengths[frame] == 0 if is_static else size == 1  # a location is static in its whole window
    if params["newline"] == "grid":  # their tokens are in the order of places too
        close(with_newlines(made, kept.rep, isqrt(places), case["in.newline"]), case["out.tokens"], FEATURES)
    else:
        close(made, case["out.tokens"][order], FEATURES)


def with_newlines(made: Tensor, rep: Tensor, side: int, newline: Tensor) -> Tensor:
    """Put a newline behind the last token of each row of a grid."""
    row = rep // side
    ends = torch.cat([row[1:] != row[:-1], torch.tensor([True])])
    pairs = zip(made, ends.tolist(), strict=True)
    return torch.cat([torch.stack([token, newline]) if end else token[None] for token, end in pairs])
