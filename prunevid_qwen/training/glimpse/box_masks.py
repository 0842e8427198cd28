"""From boxes to the merged visual tokens that they touch: GlimpsePrune's target.

The authors' rule: on a grid of W columns a box from x1 to x2 (shares of the picture's width) touches the columns
int(x1 * W) to min(int(x2 * W), W - 1), both included; rows likewise; several boxes give the union. So

* a box that ends on the border between two tokens touches the second one too;
* a box without width or height touches one column or row (the checker still lists it, as no annotator means it);
* x2 = 1 ends in the last column, and x1 = 1 touches nothing: there is no token behind the picture's edge.

Products are taken in float64 and cut towards zero; a pixel border that float64 cannot write, 29 / 100 on 100 columns,
falls into the token before it, as it does in Python.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from prunevid_qwen.errors import ConfigError

Grid = tuple[int, int, int]
"""Temporal positions, rows and columns in merged tokens."""


def box_mask(boxes: Any, grid: Grid) -> np.ndarray:
    """Say which merged tokens of one picture or video the boxes touch.

    Args:
        boxes: left, top, right, bottom as shares of width and height, in [0, 1]: [n, 4] for all temporal positions, or
            [T, n, 4] with boxes of their own for each; a row of NaN is no box. An array, a tensor or nested sequences.
        grid: (T, h, w), each at least 1.

    Returns: [T * h * w] bool, in the order of the visual tokens.

    Raises:
        ConfigError: a grid or shape that is none, a box that leaves [0, 1], or corners the wrong way round.
    """
    steps, rows, columns = check_grid(grid)
    given = _as_array(boxes)
    if given.ndim == 2:
        given = np.broadcast_to(given, (steps, *given.shape))
    if given.ndim != 3 or given.shape[-1] != 4 or len(given) != steps:
        raise ConfigError(
            f"boxes are [n, 4], or [{steps}, n, 4] for {steps} temporal positions; got {list(given.shape)}: give every "
            "position as many rows and fill up with NaN"
        )
    mask = np.zeros((steps, rows, columns), bool)
    for step, some in enumerate(given):
        for x1, y1, x2, y2 in some[~np.isnan(some).all(1)].tolist():
            if not (0 <= x1 <= x2 <= 1 and 0 <= y1 <= y2 <= 1):
                raise ConfigError(
                    f"a box is left, top, right, bottom in [0, 1] with left <= right and top <= bottom, got "
                    f"({x1:g}, {y1:g}, {x2:g}, {y2:g}): divide pixels by the picture's size, and run check_data on the "
                    "data set"
                )
            last_row, last_column = min(int(y2 * rows), rows - 1), min(int(x2 * columns), columns - 1)
            mask[step, int(y1 * rows) : last_row + 1, int(x1 * columns) : last_column + 1] = True
    return mask.reshape(-1)


def boxes_in_square(boxes: Sequence[Sequence[float]], facts: Mapping[str, Any]) -> list[list[float]]:
    """Turn shares of a picture into shares of the square to which it was padded.

    The authors' code for LLaVA does not: its targets of pictures that are no squares stand beside their objects.

    Args:
        boxes: left, top, right, bottom as shares of the picture's width and height.
        facts: of the picture: "size" is [height, width], "square" is [top, left, side] where it was padded.
    """
    if "square" not in facts:
        return [list(box) for box in boxes]
    (height, width), (top, left, side) = facts["size"], facts["square"]
    return [
        [(left + x1 * width) / side, (top + y1 * height) / side, (left + x2 * width) / side, (top + y2 * height) / side]
        for x1, y1, x2, y2 in boxes
    ]


def one_grid(grids: Sequence[Grid]) -> Grid:
    """Return the grid of a sample that has one picture or video.

    Raises:
        ConfigError: there are none or several, or it is no grid.
    """
    if len(grids) != 1:
        raise ConfigError(f"this record shows one picture or video, got {len(grids)} grids: pass its own alone")
    return check_grid(grids[0])


def check_grid(grid: Grid) -> Grid:
    """Return (T, h, w) as whole numbers.

    Raises:
        ConfigError: it is something else.
    """
    numbers = tuple(int(side) for side in grid)
    if len(numbers) != 3 or min(numbers) < 1:
        raise ConfigError(
            f"a grid is (T, h, w) in merged tokens, each at least 1; got {numbers}: divide a grid in patches by "
            "the merge size"
        )
    return numbers[0], numbers[1], numbers[2]


def _as_array(boxes: Any) -> np.ndarray:
    if hasattr(boxes, "detach"):  # a torch tensor
        boxes = boxes.detach().cpu().double().numpy()
    array = np.asarray(boxes, np.float64)
    return array.reshape(0, 4) if array.size == 0 else array
