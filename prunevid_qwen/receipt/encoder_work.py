"""What a receipt says of the vision encoder's work where places of a video may be copies."""

from __future__ import annotations

import torch

from prunevid_qwen.receipt.keys import VisionFacts
from prunevid_qwen.tokens.trace import SampleTrace
from prunevid_qwen.vision.options import VisionOptions


def vision_facts(sample: SampleTrace, options: VisionOptions, seconds: float) -> VisionFacts:
    """Return what became of the units of a row's videos.

    Args:
        sample: the row.
        options: that were asked for.
        seconds: of the encoder, of the whole batch.
    """
    videos = [block for block in sample.blocks if block.kind == "video"]
    units = sum(block.stop - block.start for block in videos)
    encoded: int | None = None
    share: float | None = None
    note: str | None = None
    if not units:
        note = "nothing to do: no video"
    elif sample.source is None:
        note = "unknown: the features were made elsewhere, or ahead without these options"
    else:
        own = [sample.source[block.start : block.stop] for block in videos]
        encoded = sum(int((each[:, 0] == torch.arange(len(each))).sum()) for each in own)
        ran = torch.cat(own)[:, 1]
        whole = max(1, int(sample.source[:, 1].max()))
        share = int(ran.sum()) / (units * whole)
        # no block runs on a newline, of which a video has one; on class tokens, one a position, and on all others none
        # runs where they are copies, also where it is not known of what
        newlines = sum(block.unplaced % block.grid[0] for block in videos)
        encoded -= max(0, int((ran == 0).sum()) - newlines - (units - encoded))
        did_all = encoded == units and bool((ran[ran > 0] == whole).all())
        note = _did_all(options) if did_all else None
    return {
        "units": units,
        "encoded": encoded,
        "share": share,
        "reuse_threshold": None if options.reuse_threshold is None else float(options.reuse_threshold),
        "early_tau": None if options.early_tau is None else float(options.early_tau),
        "early_block": options.early_block,
        "seconds": seconds,
        "note": note,
    }


def _did_all(options: VisionOptions) -> str:
    """Say that nothing was left out, in the words of what was asked for."""
    what = "0 % stood still" if options.reuses else "no position repeats another"
    return f"{what}: the encoder did all of it"
