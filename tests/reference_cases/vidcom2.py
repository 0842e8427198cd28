"""VidCom2's reference cases: ``in.tokens`` [F, p, d]; the channels, scores, shares and tokens that the authors keep."""

from __future__ import annotations

import torch

from prunevid_qwen.stage1_merge import VidCom2
from prunevid_qwen.stage1_merge.vidcom2 import frame_ratios, steady_channels, typicality
from tests.method_reference import Case, decided
from tests.tolerances import FEATURES, close


def check(case: Case) -> None:
    tokens, ratio = case["in.tokens"], case.params["retention"]
    channels = steady_channels(tokens)
    assert torch.equal(channels, case["out.channels"].sort().values)
    of_video, of_frame = typicality(tokens, channels)
    close(of_video, case["out.video_score"], FEATURES)
    close(of_frame, case["out.frame_score"], FEATURES)
    shares = frame_ratios(of_video, ratio)
    torch.testing.assert_close(shares.float(), case["out.frame_ratio"], rtol=2e-3, atol=2e-3)  # a temperature of 0.01
    frames, size, _ = tokens.shape
    step = decided(VidCom2(cluster_ratio=ratio), tokens)
    assert step.is_selection and torch.equal(step.rep, case["out.keep"])
    assert torch.equal(torch.bincount(step.rep // size, minlength=frames), case["out.frame_keep"])
