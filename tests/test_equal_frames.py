"""Positions of equal frames are found by definition, and what was made of one is copied to the right rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from prunevid_qwen.adapters.vision import Features
from prunevid_qwen.vision import equal_frames
from prunevid_qwen.vision.equal_frames import CARRIED, SeenFrames, Spreading, encoded_of


def sources_by_loops(positions: Sequence[np.ndarray], before: np.ndarray | None) -> list[int]:
    out = []
    for number, own in enumerate(positions):
        same = [at for at in range(number) if np.array_equal(positions[at], own)]
        if before is not None and np.array_equal(before, own):
            out.append(CARRIED)
        else:
            out.append(same[0] if same else number)
    return out


def footage(pictures: Sequence[int], side: int = 150) -> np.ndarray:
    """Frames of pictures, numbered; odd ones differ from the even one before them in one byte of one place."""
    numbers = np.random.default_rng(0)
    drawn = numbers.integers(0, 256, (max(pictures) // 2 + 1, side, side + 9, 3), dtype=np.uint8)
    frames = drawn[[each // 2 for each in pictures]]
    frames[[at for at, each in enumerate(pictures) if each % 2], 1, 1, 2] ^= 1
    return frames


SHOWN = [0, 0, 0, 0, 2, 3, 0, 0, 2, 3, 0, 1, 4, 4, 0, 0, 4, 4, 4, 4, 4, 4, 4]


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("at_once", [1, 2, 5, 100])
def test_equal_frames_are_found(depth: int, at_once: int) -> None:
    frames, seen, before = footage(SHOWN), SeenFrames(depth), None
    found = []
    for at in range(0, len(frames), at_once * depth):
        chunk = frames[at : at + at_once * depth]
        pairs = [chunk[n : n + depth] for n in range(0, len(chunk), depth)]
        pairs = [np.concatenate([each, each[-1:]])[:depth] for each in pairs]
        wanted = sources_by_loops(pairs, before)
        assert seen.sources(chunk) == wanted
        before, found = pairs[-1], found + wanted
    assert (CARRIED in found) == (at_once < 100)
    if at_once == 100 and depth == 2:
        assert found == [0, 0, 2, 0, 2, 5, 6, 0, 6, 6, 6, 6]


def test_equal_sums_of_unequal_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(equal_frames.zlib, "crc32", lambda _: 0)
    assert SeenFrames(1).sources(footage([0, 1, 0, 1])) == [0, 1, 0, 1]


def test_a_chunk_is_not_held() -> None:
    seen, frames = SeenFrames(2), footage(SHOWN[:-1])  # whole positions: the last one is cut out, not made
    seen.sources(frames)
    assert seen._last is not None and seen._last.base is None and seen._last.nbytes == frames[:2].nbytes


def test_each_pair_of_frames_is_summed_once_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """A still picture in which a dot moves: every position looks like every other one at first."""
    summed = []
    real = equal_frames.zlib.crc32
    monkeypatch.setattr(equal_frames.zlib, "crc32", lambda data: summed.append(1) or real(data))
    frames = footage([0] * 24)
    for number in range(24):
        frames[number, 1, 1 + 2 * number, 0] ^= 1
    assert SeenFrames(2).sources(frames) == list(range(12))
    assert len(summed) == 12


CHUNKS = [[0, 0, 2, 0], [CARRIED, CARRIED], [0, CARRIED, 2, 0, 2, 5], [CARRIED], [0, 1]]
CELLS = 3


@pytest.mark.parametrize("numbered", [False, True])
def test_features_are_copied_to_their_positions(numbered: bool) -> None:
    """Each position of the video is made as its number; a copy's source is the place of what it copies."""
    spreading, got, first, count = Spreading(), [], list[int](), 0
    for sources in CHUNKS:
        kept, begin = encoded_of(sources), len(first)
        for number, source in enumerate(sources):
            first.append(
                first[begin - 1] if source == CARRIED else begin + number if source == number else first[begin + source]
            )
        made = None
        if kept:
            tokens = (
                torch.tensor([begin + number for number in kept]).float().repeat_interleave(CELLS)[:, None].repeat(1, 2)
            )
            number = torch.arange(len(tokens)) + count * numbered
            made = Features(tokens, None, torch.stack([number, torch.full_like(number, 7)], dim=1))
            count += len(tokens)
        got.append(spreading.features(made, sources, numbered))
    assert all(each.taps is None for each in got)
    tokens, source = (torch.cat([getattr(each, name) for each in got]) for name in ("tokens", "source"))
    assert tokens[:, 0].tolist() == [float(each) for each in first for _ in range(CELLS)]
    assert source[:, 0].tolist() == [each * CELLS + cell for each in first for cell in range(CELLS)]
    assert source[:, 1].tolist() == [7 * (each == at) for at, each in enumerate(first) for _ in range(CELLS)]
    assert first == [0, 0, 2, 0, 0, 0, 6, 0, 8, 6, 8, 11, 11, 13, 14]


def test_what_is_all_there_is_not_copied() -> None:
    made = Features(torch.arange(12.0).view(6, 2))
    assert Spreading().features(made, [0, 1, 2], False).tokens is made.tokens
