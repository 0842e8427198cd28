"""Tokens without a place in a grid, and images and videos that stand in several runs of the sequence."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from prunevid_qwen.adapters import adapter_for
from prunevid_qwen.adapters.picture_grids import PictureGrid
from prunevid_qwen.adapters.prompt_layout import layout_of
from prunevid_qwen.adapters.tiny import IMAGE, SIDE
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.errors import UnsupportedError
from prunevid_qwen.forward.hooks import pruned
from prunevid_qwen.reducer import Evidence, Reducer, made_by
from prunevid_qwen.stage1_merge.blocks import around
from prunevid_qwen.stage2_select.glimpse.glimpse import frames_of
from prunevid_qwen.stage2_select.prunevid import group_strata
from prunevid_qwen.tokens import Mix, TokenLayout, TokenMap
from prunevid_qwen.tokens.trace import DOOR, Reduction, SampleTrace
from tests.families import FAMILIES, family_inputs, family_model
from tests.masking import masked_logits, rows_of, text_inputs
from tests.test_keep_everything import KEEP
from tests.test_pruning_equals_masking import TINY
from tests.test_tokens import token_maps
from tests.tolerances import LOGITS, close

GRID = (3, 2, 4)
FRAMES = torch.arange(24).view(3, 8)
WITHOUT = torch.full((3, 1), -1)
CELLS = {  # how families write a video of this grid
    "a newline after all": torch.cat([FRAMES.flatten(), WITHOUT[0]]),
    "CLS before each frame": torch.cat([WITHOUT, FRAMES], 1).flatten(),
    "a newline after each row": torch.cat([FRAMES.view(6, 4), torch.full((6, 1), -1)], 1).flatten(),
}
PLACES = pytest.mark.parametrize("cells", CELLS.values(), ids=CELLS.keys())


def layout_with(cells: Tensor) -> TokenLayout:
    """A prompt of 4 tokens of text, a video, and 5 of text."""
    types = torch.tensor([0] * 4 + [2] * cells.numel() + [0] * 5)
    layout = layout_of(types, [PictureGrid("video", GRID, tuple(cells.tolist()))], types.numel())
    assert layout is not None
    return layout


def mergers() -> list[Any]:
    out = []
    for name, options in {
        "prunevid": {"tau": 0.5, "cluster_ratio": 0.5, "min_cluster_tokens": 0},
        "pool": {"cluster_ratio": 0.3}, "uniform": {"cluster_ratio": 0.3}, "random": {"cluster_ratio": 0.3},
        "rlt": {"tau": 0.5},
    }.items():  # fmt: skip
        config = PruneVidConfig(merger=name, **options)
        out.append(pytest.param(made_by(config.merger, 1, config), id=name))
    config = PruneVidConfig(tau=0.5, cluster_ratio=0.5, min_cluster_tokens=0, token_order="grouped")
    return [*out, pytest.param(made_by(config.merger, 1, config), id="grouped")]


# ---- mergers decide about tokens with a place, and pass the others


@PLACES
@pytest.mark.parametrize("merger", mergers())
def test_a_merger_decides_about_the_grid_alone(merger: Reducer, cells: Tensor) -> None:
    numbers = torch.Generator().manual_seed(0)
    still = torch.randn(1, 8, 16, generator=numbers)
    video = (still + torch.randn(3, 8, 16, generator=numbers) * (torch.arange(8) % 2)[:, None]).flatten(0, 1)
    hidden = torch.randn(cells.numel(), 16, generator=numbers)
    placed = cells >= 0
    hidden[placed] = video[cells[placed]]
    alone = merger.plan(Evidence(layout_with(torch.arange(24)), video, video[:0]))
    assert 0 < alone.n_out < 24
    whole = merger.plan(Evidence(layout_with(cells), hidden, hidden[:0]))
    others = (~placed).nonzero()[:, 0]
    assert whole.n_out == alone.n_out + others.numel()
    for at in others.tolist():  # each alone, in its own place
        assert int((whole.target == whole.target[at]).sum()) == 1
        assert int(whole.rep[whole.target[at]]) == at
    groups = torch.isin(whole.rep, others, invert=True).nonzero()[:, 0]
    assert torch.equal(cells[whole.rep[groups]], alone.rep), "the grid's groups, in their order"
    number = torch.full((whole.n_out,), -1).index_copy(0, groups, torch.arange(groups.numel()))
    target = whole.target[placed]
    assert torch.equal(torch.where(target < 0, -1, number[target.clamp(min=0)]), alone.target[cells[placed]])
    close(whole.mean(hidden)[groups], alone.mean(video))


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_lifted_map_is_the_map(data: st.DataObject) -> None:
    inner = data.draw(token_maps())
    extra = data.draw(st.integers(1, 4))
    order = torch.tensor(data.draw(st.permutations(range(inner.n_in + extra))))
    placed, others = order[: inner.n_in], order[inner.n_in :].sort().values
    if data.draw(st.booleans()):
        entries = inner.target >= 0
        weight = torch.arange(1.0, int(entries.sum()) + 1)
        inner = replace(inner, mix=Mix(entries.nonzero()[:, 0], inner.target[entries], weight))
    whole = around(inner, placed, others)
    x = torch.randn(inner.n_in + extra, 3)
    made = whole.mean(x)
    mine = torch.isin(whole.rep, others, invert=True)
    close(made[mine], inner.mean(x[placed]))
    assert torch.equal(made[~mine], x[others])
    if inner.stratum is not None and whole.stratum is not None:
        assert torch.equal(whole.stratum[mine], inner.stratum)
        assert bool((whole.stratum[~mine] > inner.stratum.max()).all())


@PLACES
def test_keeping_every_token_stays_known(cells: Tensor) -> None:
    config = PruneVidConfig(merger="uniform", cluster_ratio=1.0)
    merger, hidden = made_by(config.merger, 1, config), torch.randn(cells.numel(), 8)
    whole = merger.plan(Evidence(layout_with(cells), hidden, hidden[:0]))
    assert whole.is_identity and whole._only_drops


@PLACES
def test_groups_and_static_share_go_by_frames(cells: Tensor) -> None:
    layout = layout_with(cells)
    groups = group_strata(layout)
    assert torch.equal(groups[cells >= 0], cells[cells >= 0] // 8)
    by_location, by_frame = cells % 8, cells // 8  # all static; nothing is
    for group_of, static in ((by_location, 24), (by_frame, 0)):
        target = torch.where(cells < 0, 24 + torch.arange(cells.numel()), group_of)
        target = target.unique(return_inverse=True)[1]
        rep = torch.stack([(target == group).nonzero()[0, 0] for group in range(int(target.max()) + 1)])
        reduced = (Reduction(DOOR, "x", TokenMap(target, rep)),)
        sample = SampleTrace(layout.blocks, cells.numel(), layout.length, reduced, layout.cells)
        assert sample.static_ratio == static / cells.numel()


@PLACES
def test_a_predictor_of_rows_and_columns_refuses_tokens_without(cells: Tensor) -> None:
    with pytest.raises(UnsupportedError):
        frames_of(layout_with(cells))


def test_a_video_that_has_lost_tokens_is_not_taken_for_a_grid() -> None:
    """Even where as many are left as its grid has cells."""
    layout = layout_with(CELLS["a newline after all"])
    left, _ = layout.apply(TokenMap.keep(torch.arange(24), 25))
    config = PruneVidConfig(merger="pool", cluster_ratio=0.3)
    with pytest.raises(ValueError, match="24 tokens"):
        made_by(config.merger, 1, config).plan(Evidence(left, torch.randn(24, 8), torch.randn(0, 8)))


# ---- a block in several runs of the sequence


def split_layout(runs: list[int]) -> TokenLayout:
    """Each frame of a video behind two tokens of text; an image, and a question."""
    types = [kind for n in runs for kind in (0, 0, *[2] * n)] + [0, 1, 1, 1, 0, 0, 0]
    shown = [PictureGrid("video", (len(runs), 1, runs[0]), tuple(range(sum(runs)))), PictureGrid("image", (1, 1, 3))]
    layout = layout_of(torch.tensor(types), shown, len(types))
    assert layout is not None
    return layout


def test_a_video_between_words_is_one_block_in_several_runs() -> None:
    layout = split_layout([3, 3, 3])
    assert layout.split
    assert [(b.kind, b.start, b.stop) for b in layout.blocks] == [("video", 0, 9), ("image", 9, 12)]
    assert layout.run_of.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert layout.visual.tolist() == [2, 3, 4, 7, 8, 9, 12, 13, 14, 16, 17, 18]


def test_groups_stay_on_their_side_of_the_text() -> None:
    layout = split_layout([3, 3, 3])
    #                                frame 0     frame 1     frame 2 merged into frame 1's, image
    step = TokenMap(torch.tensor([-1, 0, -1, 1, 2, -1, 2, 2, 1, -1, 3, 3]), torch.tensor([1, 3, 4, 11]))
    left, whole = layout.apply(step)
    text = [0, 1, 5, 6, 10, 11, 15, 19, 20, 21]
    assert whole.rep.tolist() == [0, 1, 3, 5, 6, 7, 8, 10, 11, 15, 18, 19, 20, 21]
    assert left.visual.tolist() == [2, 5, 6, 10]
    assert left.split and [b.stop - b.start for b in left.blocks] == [3, 1]
    assert left.run_of.tolist() == [0, 1, 1, 2]
    assert [int(whole.target[place]) for place in text] == [0, 1, 3, 4, 7, 8, 9, 11, 12, 13]
    x = torch.randn(layout.length, 4)
    close(whole.mean(x)[6], x[[8, 12, 13]].mean(0))  # the group of frame 1 that frame 2 went into


def test_a_map_may_not_carry_tokens_over_the_text() -> None:
    layout = split_layout([3, 3])
    crossing = TokenMap(torch.tensor([1, 2, 3, 0, 4, 5, 6, 7, 8]), torch.tensor([3, 0, 1, 2, 4, 5, 6, 7, 8]))
    with pytest.raises(ValueError, match="run_of"):
        layout.apply(crossing)
    assert replace(layout, split=False).apply(crossing) is not None, "inside one run it would be fine"


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_one_run_is_what_it_was(data: st.DataObject) -> None:
    """Runs that are blocks: slots are those of blocks, bit for bit."""
    sizes = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=3))
    types = torch.tensor([kind for n in sizes for kind in (0, *[1] * n)] + [0, 0])
    layout = layout_of(types, [PictureGrid("image", (1, 1, n)) for n in sizes], types.numel())
    assert layout is not None and not layout.split
    step = TokenMap.concat([data.draw(token_maps(n)) for n in sizes])
    for (one, first), (other, second) in [(layout.apply(step), replace(layout, split=True).apply(step))]:
        assert torch.equal(first.rep, second.rep) and torch.equal(first.target, second.target)
        assert torch.equal(one.visual, other.visual) and one.blocks == other.blocks


def test_pictures_without_text_between_them_are_blocks() -> None:
    types = torch.tensor([0] + [1] * 5 + [0])
    layout = layout_of(types, [PictureGrid("image", (1, 1, 2)), PictureGrid("image", (1, 1, 3))], 7)
    assert layout is not None and not layout.split
    assert [(b.start, b.stop) for b in layout.blocks] == [(0, 2), (2, 5)]


# ---- a family with such tokens: LLaVA that keeps CLS


def full(attention: str = "sdpa") -> Any:
    model = copy.deepcopy(family_model("llava", attention))
    model.config.vision_feature_select_strategy = "full"
    return model


def full_inputs(case: str) -> dict[str, Any]:
    """One more placeholder for each image."""
    inputs = family_inputs("llava", case)
    rows, masks = [], []
    for ids, mask in zip(inputs["input_ids"].tolist(), inputs["attention_mask"].tolist(), strict=True):
        row, count = [], 0
        for token in (token for token, valid in zip(ids, mask, strict=True) if valid):
            row += [token, token] if token == IMAGE and count % SIDE**2 == 0 else [token]
            count += token == IMAGE
        rows.append(row)
    width = max(map(len, rows))
    masks = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
    ids = [[0] * (width - len(row)) + row for row in rows]
    return {**inputs, "input_ids": torch.tensor(ids), "attention_mask": torch.tensor(masks)}


@pytest.mark.parametrize("case", ["one", "batch"])
def test_cls_is_visual_without_a_place(case: str) -> None:
    model, options = full(), FAMILIES["llava"].options
    given = {"max_new_tokens": 5, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    stock = model.generate(**full_inputs(case), **given)
    with pruned(model, PruneVidConfig(**KEEP, **options)) as trace:
        ours = model.generate(**full_inputs(case), **given)
    assert all(torch.equal(a, b) for a, b in zip(stock.logits, ours.logits, strict=True))
    assert trace.samples[0].tokens == 17 and trace.samples[0].blocks[0].unplaced == 1
    assert trace.samples[0].cells is not None and int(trace.samples[0].cells[0]) == -1
    with pruned(model, PruneVidConfig(**TINY, **options)) as trace:
        ours = model.generate(**full_inputs(case), **given)
    assert trace.samples[0].after_stage1 == 9, "half of 16, and CLS"
    inputs, eager = full_inputs(case), full("eager")
    embeds, _ = text_inputs(eager, full_inputs(case))
    positions = rows_of(adapter_for(model).reference_positions(**inputs)[0], len(embeds))
    for b, logits in enumerate(masked_logits(eager, embeds, positions, inputs, ours.sequences, trace, True)):
        close(torch.stack(ours.logits, 1)[b], logits, LOGITS)
