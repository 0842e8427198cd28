"""Boxes become the tokens they touch, by the authors' rule; an oracle that asks every cell says which."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prunevid_qwen.errors import ConfigError
from prunevid_qwen.training.glimpse.box_masks import box_mask, one_grid
from prunevid_qwen.training.glimpse.box_units import picture_boxes

SHARES = st.one_of(
    st.floats(0, 1, allow_subnormal=False), st.sampled_from((0.0, 0.25, 1 / 3, 0.5, 29 / 100, 0.75, 1.0))
)
SIDES = st.tuples(SHARES, SHARES).map(sorted)
BOXES = st.lists(st.tuples(SIDES, SIDES).map(lambda s: (s[0][0], s[1][0], s[0][1], s[1][1])), max_size=4)
GRIDS = st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9))


def touched(boxes, grid):
    """The rule cell by cell: a cell is touched if both its row and its column lie in a box's inclusive range."""
    steps, rows, columns = grid
    mask = []
    for _step in range(steps):
        for row in range(rows):
            for column in range(columns):
                hit = False
                for x1, y1, x2, y2 in boxes:
                    right = int(x2 * columns) if int(x2 * columns) < columns else columns - 1
                    bottom = int(y2 * rows) if int(y2 * rows) < rows else rows - 1
                    hit = hit or (int(x1 * columns) <= column <= right and int(y1 * rows) <= row <= bottom)
                mask.append(hit)
    return mask


@settings(deadline=None, max_examples=300)
@given(BOXES, GRIDS)
def test_masks_agree_with_the_oracle(boxes, grid):
    mask = box_mask(boxes, grid)
    assert mask.dtype == bool and mask.shape == (grid[0] * grid[1] * grid[2],)
    assert mask.tolist() == touched(boxes, grid)


@settings(deadline=None)
@given(BOXES, BOXES, GRIDS)
def test_several_boxes_are_their_union_in_any_order(some, others, grid):
    union = box_mask(some, grid) | box_mask(others, grid)
    assert np.array_equal(box_mask(some + others, grid), union)
    assert np.array_equal(box_mask(others + some, grid), union)


@settings(deadline=None)
@given(BOXES, GRIDS)
def test_a_token_whose_inside_a_box_covers_is_always_in(boxes, grid):
    _, rows, columns = grid
    mask = box_mask(boxes, grid).reshape(grid)
    for x1, y1, x2, y2 in boxes:
        for row in range(rows):
            for column in range(columns):
                across = min(x2, (column + 1) / columns) - max(x1, column / columns)
                down = min(y2, (row + 1) / rows) - max(y1, row / rows)
                if across > 1e-9 and down > 1e-9:
                    assert mask[:, row, column].all()


@pytest.mark.parametrize(
    ("box", "columns"),
    [
        ((0.0, 0, 1.0, 1), [0, 1, 2, 3]),  # the whole width: x2 = 1 is no fifth column
        ((0.0, 0, 0.25, 1), [0, 1]),  # ends on a border: the next token is touched
        ((0.0, 0, 0.2499, 1), [0]),
        ((0.5, 0, 0.5, 1), [2]),  # no width: one column
        ((1.0, 0, 1.0, 1), []),  # behind the last token
        ((0.99, 0, 1.0, 1), [3]),
    ],
)
def test_edges(box, columns):
    assert np.flatnonzero(box_mask([box], (1, 1, 4))).tolist() == columns


def test_a_border_that_floats_cannot_write_falls_before_it():
    assert int(29 / 100 * 100) == 28  # Python's arithmetic, and ours
    assert np.flatnonzero(box_mask([(29 / 100, 0, 0.295, 1)], (1, 1, 100))).tolist() == [28, 29]


def test_boxes_without_position_hold_for_all_and_others_for_their_own():
    box, none = (0.0, 0.0, 0.4, 0.4), (np.nan,) * 4
    everywhere = box_mask([box], (3, 2, 2)).reshape(3, 2, 2)
    assert everywhere[:, 0, 0].all() and everywhere.sum() == 3
    own = box_mask([[none, box], [none, none], [(0.6, 0.6, 0.9, 0.9), box]], (3, 2, 2)).reshape(3, -1)
    assert own.tolist() == [[True, False, False, False], [False] * 4, [True, False, False, True]]
    assert not box_mask([], (2, 3, 4)).any()


def test_tensors_and_arrays_are_the_same_boxes():
    boxes = [(0.125, 0.25, 0.625, 0.75)]
    expected = box_mask(boxes, (1, 8, 8))
    assert np.array_equal(box_mask(torch.tensor(boxes), (1, 8, 8)), expected)
    assert np.array_equal(box_mask(np.array(boxes, np.float32), (1, 8, 8)), expected)


@pytest.mark.parametrize(
    "box",
    [(-0.01, 0, 0.5, 0.5), (0, 0, 1.01, 1), (0.6, 0, 0.5, 1), (0, 0.6, 1, 0.5), (0, 0, np.nan, 1), (10, 10, 50, 60)],
)
def test_a_box_that_is_none_is_refused(box):
    with pytest.raises(ConfigError, match="check_data"):
        box_mask([box], (1, 4, 4))


def test_shapes_and_grids_that_are_none_are_refused():
    with pytest.raises(ConfigError, match=r"\[2, n, 4\] for 2"):
        box_mask(np.zeros((3, 1, 4)), (2, 4, 4))
    with pytest.raises(ConfigError, match="merge size"):
        box_mask([], (1, 0, 4))
    with pytest.raises(ConfigError, match="got 2 grids"):
        one_grid([(1, 2, 2), (1, 2, 2)])


# ---- units


def test_three_units_say_the_same_place():
    expected = ((0.25, 0.5, 0.5, 1.0),)
    wide = (200, 100)  # the square of 200 has 50 rows of padding above and below
    assert picture_boxes([(50, 50, 100, 100)], "pixels", wide, 0) == (expected, [])
    assert picture_boxes(expected, "normalised", None, 0) == (expected, [])
    assert picture_boxes([(0.25, 0.5, 0.5, 0.75)], "square", wide, 0) == (expected, [])
    tall = (100, 200)
    assert picture_boxes([(0.375, 0.5, 0.5, 1.0)], "square", tall, 0) == (expected, [])


@pytest.mark.parametrize(
    ("box", "unit", "kind"),
    [
        ((0.1, 0.2, 0.9, 1.0), "pixels", "box_unit"),
        ((10, 20, 90, 100), "normalised", "box_unit"),
        ((10, 20, 90, 100), "square", "box_unit"),
        ((0.1, 0.2, 1.5, 0.9), "normalised", "box_outside"),
        ((150, 20, 250, 90), "pixels", "box_outside"),
        ((-5, 20, 50, 90), "pixels", "box_outside"),
        ((200, 20, 201, 90), "pixels", "box_outside"),  # beside the picture, though by little
        ((90, 20, 10, 100), "pixels", "box_swapped"),
        ((10, 90, 90, 20), "pixels", "box_swapped"),
        ((10, 20, 10, 90), "pixels", "box_empty"),
    ],
)
def test_bad_boxes_are_named(box, unit, kind):
    boxes, flaws = picture_boxes([box], unit, (200, 100), 0.01)
    assert boxes == () and [flaw.kind for flaw in flaws] == [kind]


def test_what_sticks_out_a_little_is_cut():
    assert picture_boxes([(-1, 50, 201, 100)], "pixels", (200, 100), 0.01) == (((0.0, 0.5, 1.0, 1.0),), [])
    assert picture_boxes([(-1, 50, 201, 100)], "pixels", (200, 100), 0.0)[1][0].kind == "box_outside"


def test_one_small_pixel_box_among_others_is_no_wrong_unit():
    boxes, flaws = picture_boxes([(0, 0, 1, 1), (50, 50, 100, 100)], "pixels", (200, 100), 0)
    assert len(boxes) == 2 and not flaws
