"""From boxes as they are written to shares of the picture, and everything that can be wrong with them on the way."""

from __future__ import annotations

from collections.abc import Sequence

from prunevid_qwen.training.glimpse.flaws import Flaw
from prunevid_qwen.training.glimpse.records import Box

BOX_TYPES: dict[str, str] = {
    "pixels": "left, top, right, bottom in pixels of the picture",
    "normalised": "the same, as shares of the picture's width and height",
    "square": "the same, as shares of the square that the picture was padded to, evenly on both sides (LLaVA)",
}
"""Unit of the boxes in a file -> what it means. A data set says which; it is never guessed."""

_LARGEST_SHARE = 2.0  # beyond that nobody meant a share


def picture_boxes(
    written: Sequence[Sequence[float]], box_type: str, size: tuple[int, int] | None, overshoot: float
) -> tuple[tuple[Box, ...], list[Flaw]]:
    """Turn boxes into shares of the picture.

    Args:
        written: four finite numbers each, as the file has them.
        box_type: a key of ``BOX_TYPES``.
        size: width and height of the picture in pixels; None only for "normalised".
        overshoot: share of a side by which a box may stick out of the picture; so much is cut off.

    Returns: the boxes, in [0, 1], and what is wrong with them; a box with a flaw is left out.
    """
    wrong_unit = _wrong_unit(written, box_type)
    if wrong_unit:
        return (), [wrong_unit]
    boxes: list[Box] = []
    flaws: list[Flaw] = []
    for box in written:
        said = f"box ({', '.join(f'{part:g}' for part in box)})"
        left, top, right, bottom = _shares(box, box_type, size)
        if right < left or bottom < top:
            flaws.append(Flaw("box_swapped", f"{said} has its corners the wrong way round"))
        elif right == left or bottom == top:
            flaws.append(Flaw("box_empty", f"{said} is empty"))
        elif min(left, top) < -overshoot or max(right, bottom) > 1 + overshoot:
            shown = "" if size is None else f" of {size[0]}x{size[1]}"
            flaws.append(
                Flaw("box_outside", f"{said} leaves the picture{shown} by more than {overshoot:.0%} of a side")
            )
        else:
            inside = max(left, 0.0), max(top, 0.0), min(right, 1.0), min(bottom, 1.0)
            if inside[0] < inside[2] and inside[1] < inside[3]:
                boxes.append(inside)
            else:
                flaws.append(Flaw("box_outside", f"{said} lies beside the picture"))
    return tuple(boxes), flaws


def _wrong_unit(written: Sequence[Sequence[float]], box_type: str) -> Flaw | None:
    largest = max((abs(part) for box in written for part in box), default=0.0)
    if box_type == "pixels" and written and largest <= 1:
        return Flaw("box_unit", f"boxes were said to be in pixels, but no coordinate is above {largest:g}")
    if box_type != "pixels" and largest > _LARGEST_SHARE:
        return Flaw("box_unit", f"boxes were said to be shares ({box_type}), but a coordinate is {largest:g}")
    return None


def _shares(box: Sequence[float], box_type: str, size: tuple[int, int] | None) -> Box:
    x1, y1, x2, y2 = box
    if box_type == "normalised":
        return x1, y1, x2, y2
    if size is None:
        raise ValueError(f"boxes in {box_type} need the picture's size")
    width, height = size
    if box_type == "pixels":
        return x1 / width, y1 / height, x2 / width, y2 / height
    side = max(size)
    across, down = (side - width) // 2, (side - height) // 2  # whole pixels, as LLaVA pads
    return (
        (x1 * side - across) / width,
        (y1 * side - down) / height,
        (x2 * side - across) / width,
        (y2 * side - down) / height,
    )
