"""VScan's stage 1 against walks over tokens, and grids on which the authors' code fails."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from prunevid_qwen.config.method_options import VScanMergeOptions
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.stage1_merge import VScanMerge
from prunevid_qwen.stage1_merge.vscan import best_of_each, best_of_others, best_under_a_cap, windows_of
from tests.door_samples import shown
from tests.tolerances import close


def noise(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def best(score: Tensor) -> list[int]:
    return sorted(range(len(score)), key=lambda i: (-float(score[i]), i))


def walk_under_a_cap(score: Tensor, windows: list[int], count: int) -> list[int]:
    """Take tokens by score, of a window at most its share rounded up, until there are enough."""
    cap, taken = -(-count // (max(windows) + 1)), list[int]()
    for i in best(score):
        if len(taken) < count and sum(windows[j] == windows[i] for j in taken) < cap:
            taken.append(i)
    return sorted(taken)


def test_what_does_not_fill_a_window_is_of_the_last_one() -> None:
    assert windows_of(5, 9, 4).view(5, 9).tolist() == [[0] * 4 + [1] * 5] * 5
    assert windows_of(9, 4, 4).view(9, 4)[:, 0].tolist() == [0] * 4 + [1] * 5
    assert windows_of(3, 8, 4).view(3, 8).tolist() == [[0] * 4 + [1] * 4] * 3, "the authors divide by zero"
    assert windows_of(24, 24, 6).bincount().tolist() == [36] * 16


@pytest.mark.parametrize("grid", [(8, 8), (9, 13), (3, 9)])
def test_halves_are_those_of_a_walk(grid: tuple[int, int]) -> None:
    size, windows = grid[0] * grid[1], windows_of(*grid, 4)
    score, last, counts = noise(3, size), noise(3, size).flip(1), [size // 3, 7, 1]
    under, each = best_under_a_cap(score, windows, counts), best_of_each(score, windows, counts)
    share = [count // (int(windows.max()) + 1) for count in counts]
    for f, count in enumerate(counts):
        assert under[f].nonzero()[:, 0].tolist() == walk_under_a_cap(score[f], windows.tolist(), count)
        ranked = {w: [i for i in best(score[f]) if windows[i] == w] for w in windows.tolist()}
        assert each[f].nonzero()[:, 0].tolist() == sorted(i for own in ranked.values() for i in own[: share[f]])
        others = best_of_others(last, under, [2 * count for count in counts])[f]
        unused = [i for i in best(last[f]) if not under[f, i]]
        assert others.nonzero()[:, 0].tolist() == sorted(unused[:count])


def test_windows_too_small_for_their_shares_do_not_shrink_the_budget() -> None:
    windows = torch.tensor([0, 1, 1, 1, 1, 1])
    score = torch.tensor([[0.1, 0.9, 0.8, 0.7, 0.6, 0.5]])
    assert best_under_a_cap(score, windows, [4])[0].nonzero()[:, 0].tolist() == [0, 1, 2, 3]


def test_what_the_local_half_took_does_not_win_again() -> None:
    """The authors set its score to 0, which other scores may be too."""
    chosen = torch.tensor([[True, True, False, False, False]])
    assert best_of_others(torch.zeros(1, 5), chosen, [4])[0].tolist() == [False, False, True, True, False]


def test_a_token_left_is_the_mean_of_itself_and_those_most_like_it() -> None:
    tokens = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.9, 0.1], [0.1, 3.0]])
    salience = torch.tensor([[4.0, 1.0, 0.0, 0.0], [0.0, 4.0, 1.0, 0.0]])
    step = VScanMerge(keep_tokens=2).plan(shown((1, 2, 2), tokens, "image", vision={"salience": salience}))
    assert step.rep.tolist() == [0, 1] and step.target.tolist() == [0, 1, 0, 1]
    close(step.mean(tokens), torch.tensor([[0.95, 0.05], [0.05, 2.0]]))


def test_a_token_left_never_goes_into_another_one() -> None:
    seen = shown((2, 2, 3), torch.ones(12, 3), vision={"salience": torch.ones(2, 12)})
    step = VScanMerge(keep_tokens=4).plan(seen)
    assert step.rep.tolist() == [0, 1, 6, 7]
    assert step.target.tolist() == [0, 1, 0, 0, 0, 0, 2, 3, 2, 2, 2, 2]


@pytest.mark.parametrize("window_budget", ["cap", "equal"])
def test_the_budget_is_kept_frame_by_frame(window_budget: str) -> None:
    for grid, left in (((3, 4, 9), 30), ((5, 2, 3), 3), ((2, 1, 1), 1), ((1, 9, 9), 80)):
        size = grid[0] * grid[1] * grid[2]
        seen = shown(grid, noise(size, 4), vision={"salience": noise(2, size)})
        step = VScanMerge(keep_tokens=left, window_budget=window_budget).plan(seen)
        assert step.n_out == left
        frame = torch.arange(size) // (grid[1] * grid[2])
        went = step.target >= 0
        assert torch.equal(frame[step.rep[step.target[went]]], frame[went])


@pytest.mark.parametrize("given", [{"window_size": 0}, {"window_size": 2.0}, {"window_budget": "all"}])
def test_options_out_of_range_are_refused(given: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(given))):
        VScanMergeOptions(**given)  # type: ignore[arg-type]


def test_a_budget_of_everything_asks_for_no_evidence() -> None:
    seen = shown((1, 2, 2), noise(4, 2))
    assert VScanMerge(cluster_ratio=1.0).needs.vision is None and VScanMerge(cluster_ratio=1.0).plan(seen).is_identity
    with pytest.raises(ValueError, match="needs"):
        VScanMerge().plan(seen)
