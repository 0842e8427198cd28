"""DySeg, the dynamic segments of FastVID (arXiv 2503.11187), which FlashVID uses too: a video falls apart where frames
change."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import normalize


def frame_similarity(frames: Tensor) -> list[float]:
    """Return the cosine similarity of each frame with the next one. This waits for the device.

    Args:
        frames: [F, C] a vector for each frame, of any float dtype. A zero vector is similar to nothing.

    Returns:
        F - 1 numbers in [-1, 1].
    """
    unit = normalize(frames.detach().float(), dim=1, eps=1e-12)
    out: list[float] = (unit[1:] * unit[:-1]).sum(dim=1).tolist()
    return out


def segment_lengths(similarity: list[float], least: int, threshold: float) -> list[int]:
    """Cut a video after the frames that are least like the next one.

    Args:
        similarity: of each of the F frames with the next one, F - 1 numbers.
        least: number of segments that there are at least, but never more than frames; at least 1.
        threshold: a segment ends at each similarity below it.

    Returns:
        Lengths of the segments, in order, F in all. Of equal similarities the earlier one is cut first.
    """
    lowest = sorted(range(len(similarity)), key=similarity.__getitem__)[: least - 1]
    cuts = sorted({*lowest, *(at for at, value in enumerate(similarity) if value < threshold)})
    ends = [*(at + 1 for at in cuts), len(similarity) + 1]
    return [end - start for start, end in zip([0, *ends[:-1]], ends, strict=True)]
