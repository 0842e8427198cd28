"""FastVID's reference cases as for LLaVA-OneVision; ``in.frame_features`` [F, c] say where the video is cut."""

from __future__ import annotations

import torch

from prunevid_qwen.stage1_merge import FastVID
from prunevid_qwen.stage1_merge.dyseg import frame_similarity
from prunevid_qwen.stage1_merge.fastvid import fastvid, segments_of
from tests.method_reference import Case
from tests.reference_cases.fastvid_qwen import options
from tests.tolerances import FEATURES, close


def check(case: Case) -> None:
    params, attention = case.params, case["in.attn"]
    own, (frames, size) = FastVID(**options(params["cfg"])), attention.shape
    assert own.run_threshold is None
    tokens = case["in.embeds"][params["start"] :][: frames * size].view(frames, size, -1)
    similarity = frame_similarity(case["in.frame_features"])
    close(torch.tensor(similarity), case["out.frame_similarity"], FEATURES)
    segments = segments_of(similarity, size, own)
    assert [len(segment.salient) for segment in segments] == case["out.segment_sizes"].tolist()
    assert [each for segment in segments for each in segment.anchors] == case["out.context_per_frame"].tolist()
    assert {each for segment in segments for each in segment.salient} == {int(case["out.salient_per_frame"])}
    step = fastvid(tokens, attention, own, case["in.frame_features"])
    assert torch.equal(step.rep, case["out.keep"])
    close(step.mean(tokens.flatten(0, 1)), case["out.tokens"], FEATURES)
    salient = (case["out.salient"] + torch.arange(frames)[:, None] * size).flatten()
    assert torch.isin(salient, step.rep).all() and step.alone[torch.isin(step.rep, salient)].all()
