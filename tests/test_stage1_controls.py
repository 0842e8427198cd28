"""The control mergers: counts, equal cells, and what each of them does with them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.errors import ConfigError, PruningNotApplied
from prunevid_qwen.forward.plan import compile_plan
from prunevid_qwen.receipt import check_applied
from prunevid_qwen.reducer import Evidence, made_by
from prunevid_qwen.stage1_merge import Pool, RandomMerge, UniformMerge
from prunevid_qwen.stage1_merge.blocks import equal_boxes, middle
from prunevid_qwen.tokens import Block, TokenLayout, TokenMap
from prunevid_qwen.tokens.trace import DOOR, Reduction, SampleTrace, Trace
from tests.tolerances import close

CONTROLS = ("pool", "random", "uniform")
Grid = tuple[int, int, int]


def evidence(*grids: Grid, width: int = 8) -> Evidence:
    """Videos of noise, one after the other, then two question tokens."""
    blocks, start = [], 0
    for t, h, w in grids:
        blocks.append(Block("video", (t, h, w), start, start + t * h * w))
        start += t * h * w
    layout = TokenLayout(
        start + 2, torch.arange(start), torch.arange(start, start + 2), tuple(blocks), torch.zeros(start).long()
    )
    return Evidence(
        layout, torch.randn(start, width, generator=torch.Generator().manual_seed(0)), torch.zeros(2, width)
    )


def cells_of(index: Tensor, grid: Grid) -> Tensor:
    return torch.stack(torch.unravel_index(index, grid), dim=1)


@pytest.mark.parametrize("name", CONTROLS)
@pytest.mark.parametrize("ratio", [0.001, 0.1, 0.37, 0.5, 0.93, 1.0])
def test_as_many_tokens_of_each_video_as_asked_for(name: str, ratio: float) -> None:
    grids = ((5, 4, 7), (1, 1, 1), (2, 3, 3), (1, 6, 5))
    step = made_by(PruneVidConfig(merger=name, cluster_ratio=ratio).merger, 1).plan(evidence(*grids))
    start = 0
    for t, h, w in grids:
        inside = (step.rep >= start) & (step.rep < start + t * h * w)
        assert int(inside.sum()) == max(1, int(t * h * w * ratio))
        start += t * h * w


def test_boxes_partition_every_small_grid_at_every_count() -> None:
    wide = [1, 2, 9]  # where bands as high as they are wide would have no room for all boxes
    for grid in [*torch.cartesian_prod(*[torch.arange(1, 6)] * 3).tolist(), wide]:
        t, h, w = grid
        for count in range(1, t * h * w + 1):
            boxes = equal_boxes((t, h, w), count)
            seen = torch.zeros(t, h, w, dtype=torch.long)
            for times, rows, columns in boxes:
                seen[times.start : times.stop, rows.start : rows.stop, columns.start : columns.stop] += 1
            assert len(boxes) == count
            assert all(times and rows and columns for times, rows, columns in boxes)
            assert bool((seen == 1).all())
            places = [middle((t, h, w), box) for box in boxes]
            assert places == sorted(set(places))


def test_boxes_are_as_long_as_they_are_high_and_wide() -> None:
    for grid, count, edges in (((8, 4, 6), 24, (2, 2, 2)), ((6, 6, 9), 12, (3, 3, 3)), ((1, 6, 6), 9, (1, 2, 2))):
        for box in equal_boxes(grid, count):
            assert tuple(len(part) for part in box) == edges


@pytest.mark.parametrize(("grid", "cut"), [((8, 4, 6), 2), ((6, 3, 9), 3), ((4, 8, 4), 4), ((3, 5, 4), 1)])
def test_pool_is_average_pooling_where_the_grid_divides(grid: Grid, cut: int) -> None:
    seen = evidence(grid)
    step = Pool(cluster_ratio=1 / cut**3).plan(seen)
    volume = seen.hidden.view(*grid, -1).permute(3, 0, 1, 2)
    expected = F.avg_pool3d(volume[None], cut)[0].permute(1, 2, 3, 0).reshape(-1, seen.hidden.shape[1])
    close(step.mean(seen.hidden), expected)
    corner = cells_of(step.rep, grid) - (cut - 1) // 2  # places are the middles of the cells
    assert torch.equal(corner % cut, torch.zeros_like(corner))


def test_uniform_is_a_grid_in_all_three_axes() -> None:
    grid = (8, 6, 4)
    step = UniformMerge(cluster_ratio=1 / 8).plan(evidence(grid))
    assert step.is_selection
    axes = [torch.arange(0, n, 2) for n in grid]
    assert torch.equal(cells_of(step.rep, grid), torch.cartesian_prod(*axes))
    sparse = cells_of(UniformMerge(cluster_ratio=8 / 512).plan(evidence((8, 8, 8))).rep, (8, 8, 8))
    assert [sparse[:, axis].unique().tolist() for axis in range(3)] == [[1, 5]] * 3


def test_equal_seeds_draw_equal_tokens_and_others_do_not() -> None:
    seen = evidence((4, 5, 6), (4, 5, 6))

    def draw(seed: int) -> Tensor:
        config = PruneVidConfig(merger="random", random_seed=seed, cluster_ratio=0.3)
        step = made_by(config.merger, 1).plan(seen)
        assert step.is_selection
        return step.rep

    assert torch.equal(draw(3), draw(3))
    assert not torch.equal(draw(3), draw(4))
    assert not torch.equal(draw(3)[:36], draw(3)[36:] - 120)  # two equal grids are drawn apart
    counts = torch.zeros(240)
    for seed in range(200):
        counts[draw(seed)] += 1
    assert float((counts / 200 - 0.3).abs().max()) < 0.15  # 4.6 standard deviations


@pytest.mark.parametrize("control", [Pool, RandomMerge, UniformMerge])
def test_what_is_refused(control: type[Pool]) -> None:
    for ratio in (0.0, 1.5):
        with pytest.raises(ValueError, match="cluster_ratio is a share"):
            control(cluster_ratio=ratio).plan(evidence((2, 2, 2)))
    seen = evidence((2, 2, 2))
    step = control(0.5).plan(seen)
    left, _ = seen.layout.apply(step)
    with pytest.raises(ValueError, match="whole blocks: 4 tokens are left of a 2 x 2 x 2 video"):
        control(0.5).plan(Evidence(left, step.mean(seen.hidden), seen.question))


@pytest.mark.parametrize(
    ("name", "kind"), [("random", RandomMerge), ("pool", Pool), ("uniform", UniformMerge)], ids=CONTROLS
)
def test_the_plan_takes_the_merger_by_name(name: str, kind: type) -> None:
    seed = {"random_seed": 7} if name == "random" else {}
    config = PruneVidConfig(merger=name, cluster_ratio=0.25, merge_images=True, **seed)
    door = compile_plan(config, 6).door
    assert door is not None
    method = door.by
    assert isinstance(method, kind)
    assert method.cluster_ratio == 0.25
    assert method.merge_images
    assert getattr(method, "random_seed", 7) == 7
    assert compile_plan(config.replace(enable_stage1=False), 6).door is None
    with pytest.raises(ConfigError, match=r"no merger is called 'prunvid'\. Did you mean 'prunevid'\?"):
        compile_plan(config.replace(merger="prunvid"), 6)


def applied(config: PruneVidConfig, grid: Grid, merged: TokenMap | None, kind: str = "video") -> None:
    n = grid[0] * grid[1] * grid[2]
    done = () if merged is None else (Reduction(DOOR, config.merger, merged),)
    sample = SampleTrace((Block(kind, grid, 0, n),), n, n + 3, done)
    check_applied(Trace("reference", 2, 6, samples=(sample,)), config.replace(enable_stage2=False))


def test_a_merger_that_left_everything_is_no_silent_baseline() -> None:
    whole = TokenMap.identity(60)
    with pytest.raises(PruningNotApplied, match=r"stage 1 \(pool\) was asked for, but did not see sample 0"):
        applied(PruneVidConfig(merger="pool"), (3, 4, 5), None)
    for merger in (*CONTROLS, "prunevid"):
        with pytest.raises(PruningNotApplied, match=rf"merger '{merger}' at cluster_ratio=0\.5.*all 60 tokens"):
            applied(PruneVidConfig(merger=merger), (3, 4, 5), whole)
        applied(PruneVidConfig(merger=merger, cluster_ratio=1.0), (3, 4, 5), whole)
        applied(PruneVidConfig(merger=merger), (1, 4, 15), whole, kind="image")
        with pytest.raises(PruningNotApplied, match=merger):
            applied(PruneVidConfig(merger=merger, merge_images=True), (1, 4, 15), whole, kind="image")
        applied(PruneVidConfig(merger=merger), (1, 1, 1), TokenMap.identity(1))
        applied(PruneVidConfig(merger=merger), (3, 4, 5), TokenMap.keep(torch.arange(59), 60))
    applied(PruneVidConfig(), (6, 2, 5), whole)  # 10 tokens a position compete with none
    applied(PruneVidConfig(merger="rlt"), (6, 2, 5), whole)  # everything may move: then there is nothing to merge
    with pytest.raises(PruningNotApplied, match="pool"):
        applied(PruneVidConfig(merger="pool"), (6, 2, 5), whole)


def test_static_ratio_counts_no_dropped_token() -> None:
    dropped = TokenMap.keep(torch.tensor([0, 3]), 8)
    blocks = (Block("video", (2, 2, 2), 0, 8),)
    assert SampleTrace(blocks, 8, 9, (Reduction(DOOR, "", dropped),)).static_ratio == 0
    over_time = TokenMap(torch.tensor([0, -1, -1, 1, 0, -1, 1, -1]), torch.tensor([0, 3]))
    assert SampleTrace(blocks, 8, 9, (Reduction(DOOR, "", over_time),)).static_ratio == 4 / 8
