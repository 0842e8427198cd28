"""SimpleCluster: what it turns features by, what it makes of clusters, and where these stand."""

from __future__ import annotations

import cmath
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from prunevid_qwen.config.method_options.simplecluster import SimpleClusterOptions
from prunevid_qwen.contract.samples import evidence, only_what_it_asks_for
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.needs import Evidence, Needs
from prunevid_qwen.stage1_merge import SimpleCluster
from prunevid_qwen.stage1_merge.simplecluster import turned, turned_by_grid
from prunevid_qwen.tokens import Block, TokenLayout
from tests.test_k_means import draw, told
from tests.tolerances import close

AS_CODED = {"rotary": "grid", "distance": "cosine", "start": "farthest", "place": "first"}


def angles_of(places: Tensor, width: int, base: float = 100.0) -> Tensor:
    """[2, N, width] of places [N], as a decoder of one dimension makes them."""
    angle = places[:, None] * base ** (-torch.arange(0, width, 2) / width)
    return torch.stack([angle.cos(), angle.sin()]).repeat(1, 1, 2)


def video(tokens: Tensor, grid: tuple[int, int, int], angles: Tensor | None = None) -> Evidence:
    n = tokens.shape[0]
    layout = TokenLayout(
        n + 1, torch.arange(n), torch.tensor([n]), (Block("video", grid, 0, n),), torch.zeros(n).long()
    )
    return Evidence(layout, tokens, tokens[:0], angles=angles)


# ---- turning


@pytest.mark.parametrize("width", [16, 20, 23])
def test_each_stretch_of_channels_is_turned_as_a_head_of_a_key(width: int) -> None:
    """The test beside this one, of the model's own keys, stands in test_angles.py."""
    tokens, angles = draw(6, width), angles_of(torch.arange(6), 4)
    made, before = turned(tokens, *angles), tokens.clone()
    for place, (token, got) in enumerate(zip(tokens.tolist(), made, strict=True)):
        wanted = list(token)
        for start in range(0, width - 3, 4):
            for i in range(2):
                turn = complex(token[start + i], token[start + 2 + i]) * cmath.exp(1j * place * 100.0 ** (-i / 2))
                wanted[start + i], wanted[start + 2 + i] = turn.real, turn.imag
        close(got, torch.tensor(wanted))
    assert torch.equal(tokens, before)


@pytest.mark.parametrize("width", [12, 14, 11, 2])
def test_a_grid_turns_a_third_of_the_channels_for_each_axis(width: int) -> None:
    grid, tokens = (2, 3, 2), draw(12, width)
    made = turned_by_grid(tokens, grid)
    third = width // 3
    for number, (token, got) in enumerate(zip(tokens.tolist(), made, strict=True)):
        place, wanted, start = (number // 6, number // 2 % 3, number % 2), list(token), 0
        for axis, own in enumerate((width - 2 * third, third, third)):
            for i in range(own // 2):
                turn = cmath.exp(1j * place[axis] * 10000.0 ** (-i / (own // 2)))
                pair = complex(*token[start + 2 * i : start + 2 * i + 2]) * turn
                wanted[start + 2 * i : start + 2 * i + 2] = pair.real, pair.imag
            start += own
        close(got, torch.tensor(wanted))


# ---- clusters


@pytest.mark.parametrize("as_coded", [False, True])
def test_clusters_are_found_on_turned_features_and_averaged_as_they_came(as_coded: bool) -> None:
    grid, count, tokens = (3, 4, 4), 7, draw(48, 12, seed=2)
    options = AS_CODED if as_coded else {}
    angles = angles_of(torch.arange(48), 4)
    method = SimpleCluster(keep_tokens=count, **options)
    assert method.needs == (Needs() if as_coded else Needs(angles=True))
    step = method.plan(video(tokens, grid, None if as_coded else angles))
    if as_coded:
        points = torch.nn.functional.normalize(turned_by_grid(tokens, grid), dim=1)
        starts = [0]
        while len(starts) < count:
            starts.append(int((points @ points[starts].T).amax(1).argmin()))
    else:
        points = turned(tokens, *angles)
        starts = [(2 * i + 1) * 48 // (2 * count) for i in range(count)]
    labels, nearest = told(points, starts, 10, as_coded)
    first = [labels.index(k) for k in range(count)]
    places = first if as_coded else nearest
    assert step.rep.tolist() == sorted(places)
    assert [places[label] for label in labels] == step.rep[step.target].tolist()
    members = [[i for i in range(48) if labels[i] == labels[int(place)]] for place in step.rep]
    close(step.mean(tokens), torch.stack([tokens[own].mean(0) for own in members]))


def test_of_a_still_video_near_tokens_join() -> None:
    """Equal features have nothing but their places to tell them apart by, here within one turn."""
    tokens = draw(1, 32).expand(24, -1)
    step = SimpleCluster(keep_tokens=3).plan(video(tokens, (24, 1, 1), angles_of(torch.arange(24) / 12, 8)))
    assert step.target.diff().ge(0).all() and step.n_out == 3 and int(step.sizes.min()) >= 5


def test_a_large_common_part_changes_nothing() -> None:
    tokens, still = draw(60, 12), torch.zeros(60)
    seen = video(tokens, (5, 3, 4), angles_of(still, 4))
    one = SimpleCluster(cluster_ratio=0.2).plan(seen)
    other = SimpleCluster(cluster_ratio=0.2).plan(replace(seen, hidden=(tokens.double() + 512).float()))
    assert torch.equal(one.target, other.target) and torch.equal(one.rep, other.rep)


def test_each_video_is_clustered_by_itself() -> None:
    method = SimpleCluster(cluster_ratio=0.3)
    seen = only_what_it_asks_for(method, evidence("image between videos"))
    step, start = method.plan(seen), 0
    assert seen.angles is not None
    for block in seen.layout.blocks:
        own = slice(block.start, block.stop)
        n = block.stop - block.start
        count = n if block.kind == "image" else int(n * 0.3)
        assert (step.target[own].min(), step.target[own].max()) == (start, start + count - 1)
        if block.kind == "video":
            alone = method.plan(video(seen.hidden[own], block.grid, seen.angles[:, own]))
            assert torch.equal(step.target[own] - start, alone.target)
        start += count


def test_a_newline_is_in_no_cluster() -> None:
    tokens, cells = draw(9, 8), torch.tensor([0, 1, 2, 3, -1, 4, 5, 6, 7])
    layout = TokenLayout(
        10,
        torch.arange(9),
        torch.tensor([9]),
        (Block("video", (2, 2, 2), 0, 9, 1),),
        torch.zeros(9).long(),
        cells=cells,
    )
    angles = angles_of(torch.arange(9), 4)
    step = SimpleCluster(keep_tokens=2).plan(Evidence(layout, tokens, tokens[:0], angles=angles))
    assert step.n_out == 3 and int((step.target == step.target[4]).sum()) == 1
    assert SimpleCluster(keep_tokens=2).most(layout) == 3 == SimpleCluster(cluster_ratio=0.25).most(layout)
    others = [0, 1, 2, 3, 5, 6, 7, 8]
    alone = SimpleCluster(keep_tokens=2).plan(video(tokens[others], (2, 2, 2), angles[:, others]))
    assert torch.equal(torch.tensor(others)[alone.rep], step.rep[step.rep != 4])


def test_it_asks_for_what_it_reads() -> None:
    assert SimpleCluster(cluster_ratio=1.0).needs == SimpleCluster(rotary="grid").needs == Needs()
    with pytest.raises(ValueError, match="needs"):
        SimpleCluster().plan(video(draw(8, 4), (2, 2, 2)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"rotary": "3d"}, {"distance": "l2"}, {"start": "random"}, {"place": "mean"}, {"iterations": 0},
        {"cluster_ratio": 0.0}, {"cluster_ratio": 0.2, "keep_tokens": 4},
    ],
)  # fmt: skip
def test_options_out_of_their_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        SimpleClusterOptions(**wrong)  # type: ignore[arg-type]
