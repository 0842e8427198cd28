"""FastVID's reference cases as for Qwen2.5-VL: ``in.embeds`` [L, d] of a prompt, ``in.attn`` [F, p] of its video."""

from __future__ import annotations

from typing import Any

import torch

from prunevid_qwen.kernels.temporal_similarity import frame_means
from prunevid_qwen.stage1_merge import FastVID
from prunevid_qwen.stage1_merge.dyseg import frame_similarity
from prunevid_qwen.stage1_merge.fastvid import segments_of
from tests.method_reference import Case, decided
from tests.tolerances import FEATURES, close


def options(cfg: dict[str, Any]) -> dict[str, Any]:
    """The options of a case, by the authors' names."""
    return {
        "cluster_ratio": cfg["retention_ratio"], "segments": cfg["DySeg_c"], "segment_threshold": cfg["DySeg_tau"],
        "run_threshold": cfg.get("DySeg_ignore"), "context_ratio": cfg["STPrune_d"], "anchor_step": cfg["DTM_p"],
        "anchor_weight": cfg["DTM_beta"],
    }  # fmt: skip


def check(case: Case) -> None:
    params, attention, embeds = case.params, case["in.attn"], case["in.embeds"]
    reducer, start, (frames, size) = FastVID(**options(params["cfg"])), params["start"], attention.shape
    tokens = embeds[start : start + frames * size].view(frames, size, -1)
    similarity = frame_similarity(frame_means(tokens))
    close(torch.tensor(similarity), case["out.frame_similarity"], FEATURES)
    segments = segments_of(similarity, size, reducer)
    assert [len(segment.salient) for segment in segments] == case["out.segment_sizes"].tolist()
    step = decided(reducer, tokens, pooled=attention)
    assert torch.equal(step.rep, case["out.keep"])
    assert torch.equal(torch.bincount(step.rep // size, minlength=frames), case["out.kept_per_frame"])
    close(step.mean(tokens.flatten(0, 1)), case["out.tokens"], FEATURES)
    mixed = step.mix
    assert mixed is not None and torch.equal(step.target[step.rep], torch.arange(step.n_out))
    salient = torch.tensor([count for segment in segments for count in segment.salient])
    best = attention.argsort(dim=1, descending=True) + torch.arange(frames)[:, None] * size
    assert torch.equal(best[torch.arange(size) < salient[:, None]].sort().values, case["out.salient"])
    assert step.alone[torch.isin(step.rep, case["out.salient"])].all()
    assert torch.isin(case["out.context"], step.rep).all()
    whole = torch.cat([torch.arange(start), start + step.rep, torch.arange(start + frames * size, len(embeds))])
    assert torch.equal(whole, case["out.seq_keep"])
