"""Receipts and stage 1 are told which tokens of a video are copies, where the tower sees frames as images."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from prunevid_qwen.adapters.tiny import SIDE
from prunevid_qwen.config import ALL_OFF, PruneVidConfig
from prunevid_qwen.forward.evidence import Sight
from prunevid_qwen.forward.hooks import pruned
from prunevid_qwen.receipt.encoder_work import vision_facts
from prunevid_qwen.vision.options import VisionOptions
from tests.families import family_inputs, family_model
from tests.frame_towers import CELLS, FAMILIES, drawn, some, tower_of


def shown(family: str, moves: Tensor) -> dict[str, Any]:
    """Inputs of one prompt with one video of four frames that moves so."""
    inputs = dict(family_inputs(family, "one"))
    return {**inputs, "pixel_values_videos": drawn(moves)[None]}


def window(family: str) -> int:
    """Patches of a token along a side."""
    return 1 if family == "video_llava" else 2


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("chunk", [None, CELLS])
def test_a_receipt_says_which_tokens_are_copies(family: str, chunk: int | None) -> None:
    model, moves = family_model(family), some(4, 0.1)
    what = PruneVidConfig(**ALL_OFF, reuse_threshold=4.0, vision_chunk_tokens=chunk)
    with pruned(model, what) as trace, torch.no_grad():
        model(**shown(family, moves))
    sample = trace.samples[0]
    block, found = sample.blocks[0], sample.source
    assert found is not None and len(found) == block.stop - block.start
    ran = F.max_pool2d(moves.view(4, SIDE, SIDE).float(), window(family)).flatten(1).bool()
    if tower_of(family).has_cls and family == "video_llava":
        ran = torch.cat([ran.any(1, keepdim=True), ran], dim=1)
    places = ran.shape[1]
    for token, (source, layers) in enumerate(found[: 4 * places].tolist()):
        t, place = divmod(token, places)
        last = max(each for each in range(t + 1) if ran[each, place])
        assert source == last * places + place, (t, place)
        assert (layers > 0) == bool(ran[t, place])
    assert torch.equal(found[4 * places :, 0], torch.arange(4 * places, len(found)))
    facts = vision_facts(sample, VisionOptions(4.0), 0.5)
    assert facts["encoded"] == int(ran.sum()) + len(found) - 4 * places and facts["note"] is None
    assert facts["share"] is not None and 0.2 < facts["share"] < 1  # a newline is no work
    assert int(found[:, 1].max()) == 3000


@pytest.mark.parametrize("family", FAMILIES)
def test_runs_of_tokens_are_the_same_whether_copies_are_told_or_not(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, inputs = family_model(family), shown(family, some(4, 0.3, 7))
    what = PruneVidConfig(merger="rlt", enable_stage2=False, enable_cache_compression=False, reuse_threshold=4.0)
    maps, told, stock = [], list[bool](), Sight._source
    for tell in (True, False):
        with monkeypatch.context() as patched:
            patched.setattr(Sight, "_source", lambda self, row, tell=tell: stock(self, row) if tell else None)
            with pruned(model, what) as trace, torch.no_grad():
                model(**inputs)
        assert trace.samples[0].merged is not None
        maps.append(trace.samples[0].merged.target)
        told.append(trace.samples[0].source is not None)
    assert torch.equal(*maps) and all(told)
    assert maps[0].max() + 1 < len(maps[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_of_videos_and_images_is_told_row_by_row(family: str) -> None:
    model, inputs = family_model(family), family_inputs(family, "batch")
    with pruned(model, PruneVidConfig(**ALL_OFF, reuse_threshold=30.0)) as trace, torch.no_grad():
        model(**inputs)
    for sample in trace.samples[:2]:
        assert sample.source is not None and len(sample.source) == sample.tokens
    for block in trace.samples[1].blocks:
        if block.kind == "image":
            own = trace.samples[1].source[block.start : block.stop, 0]
            assert torch.equal(own, torch.arange(len(own)))
