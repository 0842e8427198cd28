"""VisionZip against a walk over every token of every frame, and what it does where the authors' code has no answer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from prunevid_qwen.config.method_options import VisionZipOptions
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.stage1_merge import VisionZip
from prunevid_qwen.stage1_merge.frame_by_frame import counts_of_frames, parts_of
from prunevid_qwen.stage1_merge.visionzip import zipped_frames
from tests.door_samples import shown


def walk(score: Tensor, metric: Tensor, dominant: int, contextual: int) -> tuple[list[int], list[int]]:
    """Kept tokens of one frame, and where each token goes; -1 where it is dropped."""
    n = len(score)
    best = sorted(range(n), key=lambda i: (-float(score[i]), i))[:dominant]
    rest = [i for i in range(n) if i not in best]
    step = max(1, len(rest) // contextual) if contextual else 1
    targets = rest[::step][:contextual]
    into = []
    for i in range(n):
        if i in best or i in targets:
            into.append(i)
            continue
        alike = [float(torch.cosine_similarity(metric[i].double(), metric[j].double(), dim=0)) for j in targets]
        into.append(targets[alike.index(max(alike))] if targets else -1)
    return sorted([*best, *targets]), into


@pytest.mark.parametrize(("dominant", "contextual"), [
    ((3, 4, 3), (2, 1, 2)), ((0, 5, 0), (4, 0, 0)), ((9, 0, 1), (3, 12, 11)),
])  # fmt: skip
def test_frames_are_those_of_a_walk(dominant: tuple[int, ...], contextual: tuple[int, ...]) -> None:
    draw = torch.Generator().manual_seed(sum(dominant))
    score, metric = torch.rand(3, 12, generator=draw), torch.randn(3, 12, 5, generator=draw)
    kept, into = zipped_frames(score, metric, dominant, contextual)
    for f in range(3):
        wanted = walk(score[f], metric[f], dominant[f], contextual[f])
        assert (kept[f].nonzero()[:, 0].tolist(), into[f].tolist()) == wanted


def test_a_contextual_token_is_its_target_and_the_mean_of_the_others() -> None:
    """Not divided by 2: two vectors of one direction add up to one twice as long."""
    tokens = torch.tensor([[10.0], [1.0], [2.0], [4.0]])
    salience, keys = torch.tensor([[9.0, 0.0, 0.0, 0.0]]), torch.ones(1, 4, 2)
    seen = shown((1, 1, 4), tokens, vision={"salience": salience, "keys": keys})
    step = VisionZip(keep_tokens=2, contextual_share=0.5).plan(seen)
    assert step.rep.tolist() == [0, 1] and step.target.tolist() == [0, 1, 1, 1]
    assert step.mean(tokens).flatten().tolist() == [10.0, 1.0 + (2.0 + 4.0) / 2]
    assert step.alone.tolist() == [True, False]


def test_the_published_budgets() -> None:
    """192 = 162 + 30, 128 = 108 + 20, 64 = 54 + 10 of 576; the authors count CLS among the first numbers."""
    for left, contextual in ((192, 30), (128, 20), (64, 10)):
        assert VisionZip(keep_tokens=left)._contextual(left) == contextual
    assert [VisionZip()._contextual(left) for left in (1, 2, 6, 13)] == [0, 1, 1, 2], "one, where another is beside it"
    assert VisionZip(contextual_share=0.99)._contextual(2) == 1
    assert VisionZipOptions().most(shown((1, 24, 24), torch.zeros(576, 1)).layout) == 64


def test_equal_scores_and_equal_keys_go_by_index() -> None:
    seen = shown((2, 2, 3), torch.ones(12, 3), vision={"salience": torch.ones(1, 12), "keys": torch.ones(1, 12, 2)})
    step = VisionZip(keep_tokens=4, contextual_share=0.5).plan(seen)
    assert step.rep.tolist() == [0, 1, 6, 7]
    assert step.target.tolist() == [0, 1, 1, 1, 1, 1, 2, 3, 3, 3, 3, 3]


def test_frames_without_a_token_left_are_dropped_and_the_budget_is_kept() -> None:
    draw = torch.Generator().manual_seed(5)
    tokens, salience, keys = (torch.rand(*size, generator=draw) for size in ((30, 4), (1, 30), (1, 30, 3)))
    for left in (1, 2, 5, 7, 29):
        step = VisionZip(keep_tokens=left).plan(shown((6, 1, 5), tokens, vision={"salience": salience, "keys": keys}))
        assert step.n_out == left and step.mix is not None
        frames = step.rep.div(5, rounding_mode="floor")
        assert frames.bincount(minlength=6).tolist() == counts_of_frames(left, 6)
        for group in range(left):  # nothing leaves its frame
            assert set((step.target == group).nonzero()[:, 0].div(5, rounding_mode="floor").tolist()) == {
                int(frames[group])
            }


def test_without_contextual_tokens_nothing_is_merged() -> None:
    draw = torch.Generator().manual_seed(6)
    tokens, salience = torch.rand(12, 4, generator=draw), torch.rand(1, 12, generator=draw)
    seen = shown((1, 3, 4), tokens, vision={"salience": salience, "keys": torch.rand(1, 12, 3, generator=draw)})
    step = VisionZip(keep_tokens=5, contextual_share=0.0).plan(seen)
    assert step.rep.tolist() == salience[0].topk(5).indices.sort().values.tolist()
    assert torch.equal(step.mean(tokens), tokens[step.rep])


def test_parts_never_exceed_what_is_kept_of_a_frame() -> None:
    for frames in (1, 3, 7):
        for count in range(1, 4 * frames):
            counts = counts_of_frames(count, frames)
            assert sum(counts) == count and max(counts) - min(counts) <= 1
            for part in range(count):
                parts = parts_of(counts, part)
                assert sum(parts) == part and all(0 <= own <= whole for own, whole in zip(parts, counts, strict=True))


@pytest.mark.parametrize("share", [1.0, -0.1, True, "0.1", float("nan")])
def test_shares_out_of_range_are_refused(share: object) -> None:
    with pytest.raises(ConfigError, match="contextual_share"):
        VisionZipOptions(contextual_share=share)  # type: ignore[arg-type]


def test_a_budget_of_everything_asks_for_no_evidence() -> None:
    assert VisionZip(cluster_ratio=1.0).needs.vision is None
    seen = shown((1, 2, 2), torch.rand(4, 2))
    assert VisionZip(cluster_ratio=1.0).plan(seen).is_identity
    with pytest.raises(ValueError, match="needs"):
        VisionZip().plan(seen)
