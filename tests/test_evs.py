"""EVS against a walk over every token, its number that depends on the grid alone, and what it leaves whole."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from prunevid_qwen.config.method_options import EVSOptions
from prunevid_qwen.contract import evidence
from prunevid_qwen.stage1_merge import EVS, evs
from prunevid_qwen.stage1_merge.evs import changes
from tests.door_samples import shown


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def by_hand(x: Tensor, count: int) -> list[int]:
    frames, n, _ = x.shape
    change = [
        2.0 if f == 0 else 1 - float(torch.cosine_similarity(x[f, j].double(), x[f - 1, j].double(), dim=0))
        for f in range(frames) for j in range(n)
    ]  # fmt: skip
    return sorted(sorted(range(frames * n), key=lambda i: (-change[i], i))[:count])


@pytest.mark.parametrize("piece_bytes", [1, 2000, 2**26])
def test_tokens_are_those_of_a_walk(monkeypatch: pytest.MonkeyPatch, piece_bytes: int) -> None:
    monkeypatch.setattr(evs, "PIECE_BYTES", piece_bytes)
    x = noise(7, 6, 4)
    for left in (6, 7, 20, 41):
        assert EVS(keep_tokens=left).plan(shown((7, 2, 3), x.flatten(0, 1))).rep.tolist() == by_hand(x, left)


def test_the_number_depends_on_the_grid_alone_and_holds_the_first_frame() -> None:
    for content in (noise(24, 3), torch.ones(24, 3), torch.zeros(24, 3)):
        for share, left in ((0.25, 6), (0.3, 7), (0.01, 6), (0.5, 12), (1.0, 24)):
            own = EVS(cluster_ratio=share)
            seen = shown((4, 2, 3), content)
            step = own.plan(seen)
            assert step.n_out == left == own.most(seen.layout)
            assert set(range(6)) <= set(step.rep.tolist())


def test_frames_may_lose_everything_and_what_stands_still_goes_by_index() -> None:
    x = torch.ones(4, 3, 2)
    x[2, 1] = torch.tensor([1.0, -1.0])  # changes, and changes back
    assert EVS(keep_tokens=5).plan(shown((4, 1, 3), x.flatten(0, 1))).rep.tolist() == [0, 1, 2, 7, 10]
    assert EVS(keep_tokens=6).plan(shown((4, 1, 3), x.flatten(0, 1))).rep.tolist() == [0, 1, 2, 3, 7, 10]


def test_rounding_is_no_change() -> None:
    x = noise(1, 50, 64).repeat(3, 1, 1)
    assert changes(x)[1:].eq(0).all() and changes(x)[0].isinf().all()
    assert changes(torch.zeros(2, 1, 3))[1].tolist() == [1.0]


def test_images_pass_and_a_video_of_one_frame_stays_whole() -> None:
    own = EVS()
    for name, why in (("an image", True), ("one frame", True), ("one video", False), ("image between videos", False)):
        seen = evidence(name)
        assert (own.why_unchanged(seen.layout.blocks) is not None) == why
        assert own.plan(seen).is_identity == why
        assert own.plan(seen).n_out == own.most(seen.layout)
    assert EVSOptions(cluster_ratio=1.0).most(evidence("one video").layout) == 96
    assert EVS(cluster_ratio=1.0).why_unchanged(evidence("one video").layout.blocks) is not None
