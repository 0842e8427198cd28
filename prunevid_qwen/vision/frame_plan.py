"""Which patches of the frames of some videos are encoded: by their pixels, and by their states after an early layer."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from prunevid_qwen.vision.plan import PatchForm, last_encoded, plan_reuse


def plan_frames(
    patches: Tensor, begins: Sequence[bool], threshold: float, before: Tensor | None, form: PatchForm
) -> tuple[Tensor, Tensor]:
    """Plan frames of several videos, none of which is compared with another's.

    Args:
        patches: [T, L, C] normalised pixels, as they came.
        begins: of each frame, whether a video begins with it.
        threshold: grey levels.
        before: [L, C] pixels of the last encoded state of each place, where the first frame goes on with a video.
        form: of a patch.

    Returns:
        [T, L] bool; and [L, C] pixels of the last encoded state of each place after these frames.
    """
    encoded, last = list[Tensor](), None if before is None else before[:, None]
    starts = [t for t, begin in enumerate(begins) if begin or not t]
    for start, stop in pairwise([*starts, len(patches)]):
        own = patches[start:stop, :, None]
        if begins[start]:
            last = None
        encoded.append(plan_reuse(own, threshold, last, form=form))
        last = last_encoded(own, encoded[-1], last)
    assert last is not None
    return torch.cat(encoded), last[:, 0]


def equal_frames(patches: Tensor, begins: Sequence[bool], before: Tensor | None) -> tuple[Tensor, Tensor]:
    """Plan to encode all frames but those whose pixels equal, bit for bit, those of the frame before.

    Args and returns as of `plan_frames`.
    """
    pairs = zip([patches[0] if before is None else before, *patches[:-1]], patches, strict=True)
    differ = torch.stack([(now != then).any() for then, now in pairs])
    differ |= torch.tensor(begins, device=differ.device)
    return differ[:, None].expand(patches.shape[:2]), patches[-1].clone()


def still_going(
    states: Tensor, patches: Tensor, begins: Sequence[bool], tau: float, before: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Let go no further what hardly differs from the state that last went on at its place.

    Args:
        states: [T, L, C] after the early layer.
        patches: [T, L] bool, those that were encoded so far.
        begins: of each frame, whether a video begins with it.
        tau: cosine above which a patch goes no further.
        before: [L, C] what the second value was after the frames before, where the first goes on with a video.

    Returns:
        [T, L] bool; and [L, C] fp32 directions of the states that last went on.
    """
    own = F.normalize(states.float(), dim=-1)
    last, kept = own[0] if before is None else before, list[Tensor]()
    for now, runs, begin in zip(own, patches.to(own.device), begins, strict=True):
        goes = runs if begin else runs & ~((now * last).sum(-1) > tau)
        last = torch.where(goes[:, None], now, last)
        kept.append(goes)
    return torch.stack(kept), last
