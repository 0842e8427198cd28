"""Kept: what became of every visual token of one answer, in terms of the tokens that the vision encoder made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Box = tuple[float, float, float, float]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]

KEPT, MERGED, DROPPED = "kept", "merged", "dropped"


class Fate(NamedTuple):
    """What became of a token after one step.

    Args:
        step: name of the method.
        state: "kept", "merged" (it is part of a group with others) or "dropped".
        group: number of the group that it is part of after the step, from 0; None if it was dropped.
        score: that the step gave it; None without one.
    """

    step: str
    state: str
    group: int | None
    score: float | None


class KeptCell(NamedTuple):
    """One visual token.

    Args:
        medium: number of its video or image in the prompt, from 0.
        position: temporal position, from 0; 0 of an image.
        frames: numbers of the sampled frames that it shows, from 0; () of an image.
        seconds: when these begin and end in the video; None of an image, or where times are unknown.
        row: of the grid, from the top; -1 of a token without a place (a newline).
        column: of the grid, from the left; -1 likewise.
        box: (left, top, right, bottom) in pixels of a frame as players show it; None where the place is unknown.
        fates: what became of it after each step, in order.
        dropped_at: the layer on whose output it was dropped, -1 before the first layer; None if it was not.
    """

    medium: int
    position: int
    frames: tuple[int, ...]
    seconds: tuple[float, float] | None
    row: int
    column: int
    box: Box | None
    fates: tuple[Fate, ...]
    dropped_at: int | None


@dataclass(frozen=True, eq=False)
class KeptMedium:
    """One video or image, or a tile of one, as the vision encoder cut it.

    Args:
        kind: "video" or "image".
        name: path, address, or type of the source.
        grid: (T, rows, columns) of visual tokens.
        start: index of its first token among all visual tokens of the prompt.
        stop: the index after its last one.
        size: (width, height) of a frame in pixels, as players show it.
        cells: [stop - start] int64: the cell of each token in the grid, in raster order, -1 for none; None means that
            token i has cell i.
        seconds: T pairs, when each temporal position begins and ends in the video; None of an image, or unknown.
        frames: T tuples of numbers of sampled frames, from 0; empty of an image.
        placed: whether cells cut the frame evenly. False where the model crops, pads or tiles: boxes are unknown then.
    """

    kind: str
    name: str
    grid: tuple[int, int, int]
    start: int
    stop: int
    size: tuple[int, int]
    cells: Ints | None = None
    seconds: tuple[tuple[float, float], ...] | None = None
    frames: tuple[tuple[int, ...], ...] = ()
    placed: bool = True

    def box(self, row: int, column: int) -> Box | None:
        """Return (left, top, right, bottom) of a cell in pixels of a frame; None where that is unknown.

        Raises:
            ValueError: the grid has no such cell.
        """
        _, rows, columns = self.grid
        if not (0 <= row < rows and 0 <= column < columns):
            raise ValueError(f"the grid has {rows} rows and {columns} columns, got row {row}, column {column}")
        if not self.placed:
            return None
        width, height = self.size[0] / columns, self.size[1] / rows
        return (column * width, row * height, (column + 1) * width, (row + 1) * height)

    def place(self, token: int) -> tuple[int, int, int]:
        """Return (position, row, column) of the prompt's visual token ``token``; -1 each for one without a place."""
        cell = token - self.start if self.cells is None else int(self.cells[token - self.start])
        if cell < 0:
            return -1, -1, -1
        _, rows, columns = self.grid
        return cell // (rows * columns), cell // columns % rows, cell % columns


@dataclass(frozen=True, eq=False)
class KeptStep:
    """What one step left of the visual tokens, numbered as the vision encoder made them: [N].

    Args:
        name: of the method.
        at: the layer on whose output it acted, from 0; -1 before the first layer.
        group: [N] int64: the group that a token is part of after the step, from 0; -1 if it is gone by then.
        own: [N] bool: the token whose place its group has.
        score: [N] float32: the natural logarithm of the question's attention that the step chose by, NaN for tokens
            that it did not see; None where it did not choose by that.
    """

    name: str
    at: int
    group: Ints
    own: Flags
    score: Floats | None = None

    @property
    def sizes(self) -> Ints:
        """[groups] int64: tokens of each group."""
        return np.bincount(self.group[self.group >= 0], minlength=int(self.group.max(initial=-1)) + 1)

    @property
    def states(self) -> npt.NDArray[np.str_]:
        """[N] of "kept", "merged" and "dropped"."""
        alone = np.append(self.sizes == 1, False)[self.group]
        return np.where(self.group < 0, DROPPED, np.where(alone & self.own, KEPT, MERGED))


@dataclass(frozen=True, eq=False)
class Kept:
    """What became of the visual tokens of one answer.

    Args:
        media: the videos and images in the order of the prompt; their tokens are 0 to N - 1 in that order.
        steps: in order; none where nothing was pruned.
        question: as asked, or "".
        answer: as given, or "".
    """

    media: tuple[KeptMedium, ...]
    steps: tuple[KeptStep, ...]
    question: str = ""
    answer: str = ""
    tokens: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tokens", self.media[-1].stop if self.media else 0)
        wrong = [step.name for step in self.steps if len(step.group) != self.tokens or len(step.own) != self.tokens]
        if wrong:
            raise ValueError(f"the media have {self.tokens} visual tokens, but not the steps {', '.join(wrong)}")

    @property
    def left(self) -> Flags:
        """[N] bool: tokens that are there after the last step, alone or in a group."""
        return np.ones(self.tokens, bool) if not self.steps else self.steps[-1].group >= 0

    @property
    def count(self) -> int:
        """Number of tokens after the last step: groups, each counted once."""
        return self.tokens if not self.steps else len(self.steps[-1].sizes)

    def cells(self) -> Iterator[KeptCell]:
        """Yield a row for each visual token, in the order of the prompt."""
        states = [step.states for step in self.steps]
        for number, medium in enumerate(self.media):
            for token in range(medium.start, medium.stop):
                position, row, column = medium.place(token)
                fates = tuple(
                    Fate(
                        step.name,
                        str(own[token]),
                        None if step.group[token] < 0 else int(step.group[token]),
                        None if step.score is None or np.isnan(step.score[token]) else float(step.score[token]),
                    )
                    for step, own in zip(self.steps, states, strict=True)
                )
                yield KeptCell(
                    number,
                    max(position, 0),
                    medium.frames[position] if medium.frames and position >= 0 else (),
                    medium.seconds[position] if medium.seconds is not None and position >= 0 else None,
                    row,
                    column,
                    None if position < 0 else medium.box(row, column),
                    fates,
                    next((step.at for step in self.steps if step.group[token] < 0), None),
                )

    def per_position(self, medium: int = 0, step: int = -1) -> npt.NDArray[np.float64]:
        """Return the share of each temporal position's tokens that are left after a step, [T] in [0, 1].

        A group counts at the place that it has, so merged tokens count once.

        Args:
            medium: number of the video or image.
            step: number of the step; -1 is the last.
        """
        shown = self.media[medium]
        places = np.array([shown.place(token)[0] for token in range(shown.start, shown.stop)], np.int64)
        whole = np.bincount(places[places >= 0], minlength=shown.grid[0])
        own = self.steps[step].own[shown.start : shown.stop] if self.steps else np.ones(len(places), bool)
        kept = np.bincount(places[(places >= 0) & own], minlength=shown.grid[0])
        return kept / np.maximum(whole, 1)

    def per_second(self, medium: int = 0) -> list[tuple[float, float, float]]:
        """Return (begin, end, share left) of each temporal position of a video, in seconds; [] without times."""
        times = self.media[medium].seconds
        if times is None:
            return []
        shares = self.per_position(medium)
        return [(begin, end, float(share)) for (begin, end), share in zip(times, shares, strict=True)]

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists and numbers, ready for JSON."""
        return {
            "question": self.question,
            "answer": self.answer,
            "media": [
                {
                    "kind": each.kind,
                    "name": each.name,
                    "grid": list(each.grid),
                    "start": each.start,
                    "stop": each.stop,
                    "size": list(each.size),
                    "cells": None if each.cells is None else each.cells.tolist(),
                    "seconds": None if each.seconds is None else [list(pair) for pair in each.seconds],
                    "frames": [list(numbers) for numbers in each.frames],
                    "placed": each.placed,
                }
                for each in self.media
            ],
            "steps": [
                {
                    "name": each.name,
                    "at": each.at,
                    "group": each.group.tolist(),
                    "own": np.flatnonzero(each.own).tolist(),
                    "score": None
                    if each.score is None
                    else [None if np.isnan(value) else round(float(value), 4) for value in each.score],
                }
                for each in self.steps
            ],
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Kept:
        """Return what `to_dict` was made of; scores are rounded to four places."""
        media = tuple(
            KeptMedium(
                each["kind"], each["name"], _three(each["grid"]), each["start"], each["stop"],
                (each["size"][0], each["size"][1]),
                None if each["cells"] is None else np.array(each["cells"], np.int64),
                None if each["seconds"] is None else tuple((begin, end) for begin, end in each["seconds"]),
                tuple(tuple(numbers) for numbers in each["frames"]), each["placed"],
            )
            for each in plain["media"]
        )  # fmt: skip
        steps = []
        for each in plain["steps"]:
            own = np.zeros(len(each["group"]), bool)
            own[each["own"]] = True
            score = each["score"]
            scores = None if score is None else np.array([np.nan if x is None else x for x in score], np.float32)
            steps.append(KeptStep(each["name"], each["at"], np.array(each["group"], np.int64), own, scores))
        return cls(media, tuple(steps), plain["question"], plain["answer"])


def _three(sides: list[int]) -> tuple[int, int, int]:
    return sides[0], sides[1], sides[2]
