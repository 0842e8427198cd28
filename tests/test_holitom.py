"""HoliTom's outer merging: windows against every partition, the budget, and where the original fails."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import ceil
from typing import Any

import pytest
import torch
from torch import Tensor

from prunevid_qwen.config.method_options.holitom import HoliTomMergeOptions
from prunevid_qwen.contract.samples import evidence, only_what_it_asks_for
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.kernels import dpc_knn
from prunevid_qwen.needs import Evidence
from prunevid_qwen.stage1_merge import HoliTomMerge
from prunevid_qwen.stage1_merge.holitom import (
    best_windows,
    followers,
    left_share,
    merged_over_windows,
    similarity,
    window_counts,
)
from prunevid_qwen.tokens import TokenMap
from tests.test_k_means import draw
from tests.test_simplecluster import video
from tests.tolerances import close

FIRST_SCENE, SECOND_SCENE = (0, 3), (3, 8)


def scenes(moving: int = 5, width: int = 16) -> tuple[Tensor, Tensor]:
    """8 frames of 12 places in two scenes; the first ``moving`` places change in every frame. With an attention."""
    tokens = torch.cat([draw(1, 12, width, seed=1).repeat(3, 1, 1), draw(1, 12, width, seed=2).repeat(5, 1, 1)])
    tokens[:, :moving] = draw(8, moving, width, seed=3)
    return tokens + 0.01 * draw(8, 12, width, seed=4), torch.rand(8, 12, generator=torch.Generator().manual_seed(5))


def merge(tokens: Tensor, attention: Tensor, **options: Any) -> TokenMap:
    return merged_over_windows(tokens, attention, HoliTomMergeOptions(**options))


# ---- windows


def partitions(frames: int, longest: int) -> Iterator[list[tuple[int, int]]]:
    if not frames:
        yield []
    for size in range(1, min(frames, longest) + 1):
        for before in partitions(frames - size, longest):
            yield [*before, (frames - size, frames - 1)]


@pytest.mark.parametrize("longest", [1, 3, 20])
@pytest.mark.parametrize("seed", range(4))
def test_windows_save_as_much_as_any_partition(seed: int, longest: int) -> None:
    alike = torch.rand(7, 9, generator=torch.Generator().manual_seed(seed)) < 0.75
    counts = window_counts(followers(alike), longest)
    windows, saved = best_windows(counts)

    def value(window: tuple[int, int]) -> int:
        first, last = window
        return int(alike[first:last].all(0).sum()) * (last - first)

    for first in range(8):
        for more in range(1, min(longest, 8 - first)):
            assert int(counts[first, more]) == int(alike[first : first + more].all(0).sum())
    assert saved == sum(map(value, windows)) == max(sum(map(value, each)) for each in partitions(8, longest))
    assert [windows[0][0], *(last + 1 for _, last in windows)] == [*(first for first, _ in windows), 8]


def test_of_equal_partitions_the_last_window_is_the_shortest() -> None:
    nothing = torch.zeros(4, 3, dtype=torch.bool)
    assert best_windows(window_counts(followers(nothing), 9)) == ([(t, t) for t in range(5)], 0)
    assert best_windows(window_counts(followers(nothing[:0]), 9)) == ([(0, 0)], 0)
    assert best_windows(window_counts(followers(~nothing), 2)) == ([(0, 1), (2, 3), (4, 4)], 6)


# ---- what is left


def test_what_is_static_in_a_scene_is_left_once_and_the_rest_by_attention() -> None:
    tokens, attention = scenes()
    step = merge(tokens, attention, cluster_ratio=0.4, tau=0.9)
    share = left_share(96, 7 * 2 + 7 * 4, 0.4)
    clusters, each = round(7 * share), ceil(5 * share)
    assert step.n_out == 2 * clusters + 8 * each
    kept = step.rep.view(-1)
    for frame in range(8):
        own = kept[(kept >= 12 * frame) & (kept < 12 * (frame + 1))] - 12 * frame
        best = attention[frame, :5].argsort(descending=True)[:each].sort().values
        assert torch.equal(own[own < 5], best)
        assert int((own >= 5).sum()) == (clusters if frame in (0, 3) else 0)
    for first, last in (FIRST_SCENE, SECOND_SCENE):  # a place belongs to one token in all frames of its scene
        place = step.target.view(8, 12)[first:last, 5:]
        assert torch.equal(place, place[:1].expand_as(place)) and int(place.min()) >= 0


@pytest.mark.parametrize("beta", [0.6, 0.0, 1.0, None])
def test_a_merged_token_is_its_centre_and_the_mean_of_the_others(beta: float | None) -> None:
    tokens, attention = scenes()
    step = merge(tokens, attention, cluster_ratio=0.4, tau=0.9, beta=beta)
    made, flat = step.mean(tokens.flatten(0, 1)), step.target.view(8, 12)
    sizes = []
    for number, rep in enumerate(step.rep.tolist()):
        frame, place = divmod(rep, 12)
        if place < 5:
            assert torch.equal(made[number], tokens[frame, place])
            continue
        scene = tokens[slice(*(FIRST_SCENE if frame == 0 else SECOND_SCENE))].mean(0)
        others = [at for at in range(5, 12) if at != place and int(flat[frame, at]) == number]
        sizes.append(len(others))
        wanted = scene[place]
        if others and beta is None:
            wanted = scene[[place, *others]].mean(0)
        elif others and beta is not None:
            wanted = beta * scene[place] + (1 - beta) * scene[others].mean(0)
        close(made[number], wanted)
    assert max(sizes) > 1 and min(sizes) == 0, "clusters of several, and of one alone"


def test_clusters_of_moving_places_are_possible() -> None:
    """The original fails where some of a frame's tokens are to be clusters."""
    tokens, attention = scenes(moving=12)
    step = merge(tokens, attention, cluster_ratio=0.5, tau=0.9, clustered_share=0.5)
    assert step.n_out == 48
    for frame in range(8):
        order = attention[frame].argsort(descending=True)
        best, rest = order[:3].sort().values, order[3:].sort().values
        found = dpc_knn.reference(tokens[frame, rest], 3, 3)
        own = step.rep[(step.rep >= 12 * frame) & (step.rep < 12 * frame + 12)] - 12 * frame
        assert own.tolist() == sorted([*best.tolist(), *rest[found.centres].tolist()])
        centres = rest[found.centres][found.labels] + 12 * frame
        assert torch.equal(step.rep[step.target[rest + 12 * frame]], centres)
    assert merge(tokens, attention, cluster_ratio=0.5, tau=0.9, clustered_share=1.0).n_out == 48


def test_places_without_attention_count_too() -> None:
    tokens, _ = scenes()
    step = merge(tokens.flip(1), torch.zeros(8, 12), cluster_ratio=0.4, tau=0.9)  # the last five places move
    assert step.n_out == merge(*scenes(), cluster_ratio=0.4, tau=0.9).n_out
    assert {int(rep) % 12 for rep in step.rep if int(rep) % 12 >= 7} == {7, 8, 9, 10}, "ties go to the lower place"


def test_a_still_video_keeps_a_token_whatever_rounding_says() -> None:
    tokens = draw(1, 2, 8).expand(30, -1, -1)
    step = merge(tokens, torch.ones(30, 2), cluster_ratio=0.001, tau=0.9)
    assert (step.n_out, step.sizes.tolist()) == (1, [60])


def test_a_frame_is_chosen_from_by_attention_alone() -> None:
    tokens, attention = scenes()
    step = merge(tokens[:1], attention[:1], cluster_ratio=0.3)
    assert step.is_selection and step.rep.tolist() == attention[0].argsort(descending=True)[:4].sort().values.tolist()


def test_blocks_of_frames_and_of_clusters_give_what_they_give_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"cluster_ratio": 0.5, "tau": 0.9, "clustered_share": 0.4}
    whole = merge(*scenes(), **options)
    monkeypatch.setattr("prunevid_qwen.stage1_merge.holitom._BLOCK_BYTES", 1)
    monkeypatch.setattr("prunevid_qwen.stage1_merge.holitom._ROWS", 1)
    parts = merge(*scenes(), **options)
    assert torch.equal(whole.target, parts.target) and torch.equal(whole.rep, parts.rep)
    assert whole.mix is not None and parts.mix is not None and torch.equal(whole.mix.weight, parts.mix.weight)


# ---- the method


def test_each_video_is_decided_by_itself_and_images_only_if_asked() -> None:
    method = HoliTomMerge(cluster_ratio=0.3)
    seen = only_what_it_asks_for(method, evidence("image between videos"))
    step, start = method.plan(seen), 0
    for block in seen.layout.blocks:
        own = slice(block.start, block.stop)
        given = {kind: each[:, own] for kind, each in (seen.vision or {}).items()}
        alone = method.plan(replace(video(seen.hidden[own], block.grid), vision=given))
        count = alone.n_out if block.kind == "video" else block.stop - block.start
        reps = alone.rep if block.kind == "video" else torch.arange(count)
        assert torch.equal(step.rep[start : start + count] - block.start, reps)
        start += count
    assert start == step.n_out
    assert HoliTomMerge(cluster_ratio=0.3, merge_images=True).plan(seen).n_out < start


def test_attention_is_read_where_newlines_stand_between() -> None:
    tokens, attention = scenes(moving=12)
    seen = video(tokens.flatten(0, 1), (8, 3, 4))
    rows = torch.arange(96).view(24, 4)
    cells = torch.cat([rows, torch.full((24, 1), -1)], 1).flatten()
    block = replace(seen.layout.blocks[0], stop=120, unplaced=24)
    visual = torch.arange(120)
    layout = replace(seen.layout, visual=visual, question=torch.tensor([120]), length=121, cells=cells,
                     blocks=(block,), stratum=torch.zeros(120).long())  # fmt: skip
    spread = torch.where(cells < 0, 9.0, attention.flatten()[cells.clamp(min=0)])
    whole = tokens.flatten(0, 1)[cells.clamp(min=0)]
    step = HoliTomMerge(cluster_ratio=0.3).plan(Evidence(layout, whole, whole[:0], vision={"received": spread[None]}))
    alone = merge(tokens, attention, cluster_ratio=0.3)
    assert torch.equal(cells[step.rep][cells[step.rep] >= 0], alone.rep)
    assert int((cells[step.rep] < 0).sum()) == 24


@pytest.mark.parametrize(("share", "tau"), [(0.05, 0.65), (0.1, 0.65), (0.15, 0.8), (1.0, 0.8)])
def test_the_threshold_follows_the_share_as_in_the_authors_scripts(share: float, tau: float) -> None:
    assert HoliTomMergeOptions(cluster_ratio=share).threshold == tau
    assert HoliTomMergeOptions(cluster_ratio=share, tau=0.3).threshold == 0.3


def test_similarity_is_at_most_one() -> None:
    tokens = draw(1, 50, 7).repeat(3, 1, 1) * 3
    assert float(similarity(tokens).max()) <= 1
    assert merge(tokens, torch.ones(3, 50), cluster_ratio=1.0, tau=1.0).is_identity
    assert HoliTomMerge(cluster_ratio=1.0, tau=0.1).plan(video(tokens.flatten(0, 1), (3, 5, 10))).is_identity


@pytest.mark.parametrize(
    "wrong",
    [
        {"tau": 0.0}, {"tau": 1.2}, {"beta": 1.1}, {"beta": "mean"}, {"clustered_share": None},
        {"clustered_share": -0.1}, {"max_window": 0}, {"dpc_knn_k": 0}, {"cluster_ratio": 0},
    ],
)  # fmt: skip
def test_options_out_of_their_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        HoliTomMergeOptions(**wrong)


def test_without_the_towers_attention_it_says_so() -> None:
    with pytest.raises(ValueError, match="needs"):
        HoliTomMerge().plan(video(draw(8, 4), (2, 2, 2)))
