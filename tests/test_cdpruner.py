"""CDPruner: against the determinant itself, where the original fails, and whose relevance it reads."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.config.method_options.cdpruner import CDPrunerOptions
from prunevid_qwen.contract.samples import evidence, only_what_it_asks_for
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.forward.hooks import pruned
from prunevid_qwen.needs import Evidence, Needs
from prunevid_qwen.stage1_merge import CDPruner
from prunevid_qwen.stage1_merge.cdpruner import conditional_dpp, likeness, rescaled
from tests.families import family_inputs, family_model
from tests.models import EOS, ONE_VIDEO, make_inputs, tiny_model
from tests.test_k_means import draw
from tests.test_simplecluster import video
from tests.tolerances import close


def greedy(kernel: Tensor, count: int) -> list[int]:
    """The law: each time the point with which the determinant of the kernel is largest."""
    chosen: list[int] = []
    for _ in range(count):
        rest = [i for i in range(len(kernel)) if i not in chosen]
        chosen.append(max(rest, key=lambda i: float(torch.linalg.det(kernel[[*chosen, i]][:, [*chosen, i]]))))
    return chosen


def kernel_of(tokens: Tensor, relevance: Tensor) -> Tensor:
    unit = torch.nn.functional.normalize(tokens.double(), dim=1)
    return relevance.double()[:, None] * (unit @ unit.T) * relevance.double()


# ---- the choice


@pytest.mark.parametrize("frames", [1, 2, 4])
def test_each_kernel_takes_the_largest_determinants(frames: int) -> None:
    tokens, words = draw(24, 16), draw(3, 16, seed=1)  # 4 frames of 6
    relevance = rescaled(likeness(tokens, words))
    step = CDPruner(keep_tokens=9, kernel_frames=frames).plan(asking(tokens, (4, 2, 3), words))
    size, wanted = 6 * frames, []
    for start in range(0, 24, size):
        count = 9 * (start + size) // 24 - 9 * start // 24
        own = slice(start, start + size)
        wanted += [start + i for i in greedy(kernel_of(tokens[own], relevance[own]), count)]
    assert step.is_selection and step.rep.tolist() == sorted(wanted) and step.n_out == 9


def asking(tokens: Tensor, grid: tuple[int, int, int], words: Tensor, **given: Any) -> Evidence:
    seen = video(tokens, grid)
    return Evidence(seen.layout, tokens, words, **given)


def test_a_last_kernel_of_fewer_frames() -> None:
    tokens, relevance = draw(20, 8), torch.rand(20, generator=torch.Generator().manual_seed(3)) + 0.1
    picks = conditional_dpp(tokens, relevance, 7, 8).tolist()
    wanted = []
    for start, stop, count in ((0, 8, 2), (8, 16, 3), (16, 20, 2)):
        own = slice(start, stop)
        wanted += [start + i for i in greedy(kernel_of(tokens[own], relevance[own]), count)]
    assert picks == wanted


def test_copies_and_kernels_of_small_rank_keep_as_many_as_were_asked_for() -> None:
    """The original takes the root of a negative number there, and picks what it has picked."""
    tokens = draw(3, 16)[torch.arange(24) % 3]  # of rank 3
    relevance = torch.linspace(0.1, 1, 24)
    picks = conditional_dpp(tokens, relevance, 15, 24).tolist()
    assert set(picks[:3]) == {21, 22, 23} and len(set(picks)) == 15
    assert picks[3:] == list(range(20, 8, -1))  # what adds nothing follows by relevance
    for equal in (torch.ones(12, 4), torch.zeros(12, 4)):
        assert conditional_dpp(equal, torch.ones(12), 5, 12).tolist() == [0, 1, 2, 3, 4]


def test_relevance_is_scaled_over_each_video_and_all_equal_relevance_is_one() -> None:
    own = rescaled(torch.tensor([0.5, 0.25, 0.75]))
    close(own, torch.tensor([0.500002, 2e-6, 1.000002]))
    assert torch.equal(rescaled(torch.full((3,), -0.2)), torch.ones(3))
    method = CDPruner(cluster_ratio=0.4)
    seen = only_what_it_asks_for(method, evidence("two videos"))
    step, start = method.plan(seen), 0
    for block in seen.layout.blocks:
        inside = slice(block.start, block.stop)
        alone = method.plan(asking(seen.hidden[inside], block.grid, seen.question))
        assert torch.equal(step.rep[start : start + alone.n_out] - block.start, alone.rep)
        start += alone.n_out
    assert start == step.n_out


def test_a_token_of_little_relevance_is_left_out_though_it_differs_most() -> None:
    word, other = torch.eye(8)[:2]
    near = word + 0.3 * draw(6, 8)
    tokens = torch.cat([near, -word[None] + other])
    assert 6 not in CDPruner(keep_tokens=4).plan(asking(tokens, (1, 1, 7), word[None])).rep
    assert 6 in CDPruner(keep_tokens=4).plan(asking(tokens, (1, 1, 7), -word[None])).rep


# ---- whose relevance


def test_the_users_words_are_read_and_not_the_template() -> None:
    model, what = tiny_model(), PruneVidConfig(merger=CDPrunerOptions(cluster_ratio=0.2), selector=None)
    inputs = make_inputs(ONE_VIDEO)
    inputs["input_ids"][:, -3] = EOS

    def kept() -> Tensor:
        with pruned(model, what) as trace, torch.no_grad():
            model(**inputs)
        return trace.samples[0].merged.rep

    before = kept()
    inputs["input_ids"][:, -1] += 1
    assert torch.equal(kept(), before)
    inputs["input_ids"][:, -5:-3] += 7
    assert not torch.equal(kept(), before)


def test_marks_are_the_relevance_that_the_caller_gives() -> None:
    model, inputs = family_model("llava"), family_inputs("llava", "one")
    what = PruneVidConfig(merger=CDPrunerOptions(keep_tokens=6, relevance="marks"), selector=None)
    n = adapter_tokens(model, inputs)
    marks = torch.zeros(n)
    marks[[1, 4, 6, 9, 10, 15]] = 0.9
    with pruned(model, what, [marks]) as trace, torch.no_grad():
        model(**inputs)
    assert trace.samples[0].merged.rep.tolist() == [1, 4, 6, 9, 10, 15]
    with pytest.raises(ConfigError, match="marks"), pruned(model, what), torch.no_grad():
        model(**inputs)


def adapter_tokens(model: Any, inputs: dict[str, Any]) -> int:
    return int((inputs["input_ids"] == model.config.image_token_id).sum())


def test_it_asks_for_what_it_reads() -> None:
    assert CDPruner(cluster_ratio=1.0).needs == Needs()
    assert CDPruner().needs == Needs(question="question") and CDPruner(relevance="marks").needs == Needs(marks=True)
    for method in (CDPruner(), CDPruner(relevance="marks")):
        with pytest.raises(ValueError, match="needs"):
            method.plan(video(draw(8, 4), (2, 2, 2)))


@pytest.mark.parametrize("wrong", [{"relevance": "clip"}, {"kernel_frames": 0}, {"cluster_ratio": 1.5}])
def test_options_out_of_their_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        CDPrunerOptions(**wrong)
