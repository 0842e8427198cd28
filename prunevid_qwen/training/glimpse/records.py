"""What the trainer is given: a question, its answer, and which visual tokens it has to look at to answer.

A data set is anything that has `BoxData`'s three methods. It reads from disk (or draws) when it is asked, keeps
nothing, and gives the same record for the same index, in whatever process.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from prunevid_qwen.errors import ConfigError, UnsupportedError
from prunevid_qwen.inputs.qwen.media import MediaReader, Medium
from prunevid_qwen.training.glimpse.box_masks import Grid, box_mask, boxes_in_square, one_grid
from prunevid_qwen.training.glimpse.flaws import Flaw
from prunevid_qwen.video.picture import Picture

Box = tuple[float, float, float, float]
"""Left, top, right, bottom: shares of the picture's width and height, in [0, 1]."""


class VideoSource(Protocol):
    """A video that is made when it is asked for, and knows which of its tokens matter."""

    def medium(self, media: MediaReader) -> Medium:
        """Return the video as patches of the size that the model takes."""
        ...

    def shows(self, grid: Grid) -> np.ndarray:
        """Say which merged tokens matter: [T * h * w] bool."""
        ...


@dataclass(frozen=True)
class BoxRecord:
    """One question about one picture or video.

    Args:
        id: what messages call it.
        source: the path of a picture, or a video that is made on demand.
        question: as the user writes it.
        answer: what the assistant says after ``answer_prefix``.
        boxes: where in the picture the answer is, at least one; empty for a video, which says it itself.
        answer_prefix: what the assistant's turn begins with and nobody has to learn; "" for most.
        turn_ends: whether the assistant's turn is over after the answer, so that its end is learnt with it. False for
            the letter of an option, which goes on.
    """

    id: str
    source: str | VideoSource
    question: str
    answer: str
    boxes: tuple[Box, ...] = ()
    answer_prefix: str = ""
    turn_ends: bool = True

    def messages(self, media: MediaReader | None) -> list[dict[str, Any]]:
        """Write the conversation up to the answer, as `Preprocessor.sample` takes it.

        Args:
            media: the model's, ``preprocessor.media``, None where the library's processor reads; a picture is opened
                by the preprocessor and closed again.

        Raises:
            MediaError: the picture or video cannot be read (of a picture when the preprocessor reads it).
            UnsupportedError: a video, and the library's processor reads.
        """
        if isinstance(self.source, str):
            seen: dict[str, Any] = {"type": "image", "image": self.source}
        elif media is None:
            raise UnsupportedError(
                f"record {self.id} is a video that is drawn, and this model is trained on pictures alone: give data "
                "of kind visual_cot or llava"
            )
        else:
            seen = {"type": "video", "video": self.source.medium(media)}
        content = [seen, {"type": "text", "text": self.question}]
        messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
        if self.answer_prefix:
            messages.append({"role": "assistant", "content": self.answer_prefix})
        return messages

    def mask(self, grids: Sequence[Grid], shown: Picture | None = None) -> np.ndarray:
        """Say which visual tokens show what the answer needs.

        Args:
            grids: (T, h, w) in merged tokens of the sample's picture or video, one.
            shown: the picture as it was read, where it may have been padded to a square; None where it never is.

        Returns: [N] bool, N = T * h * w, in the order of the visual tokens.

        Raises:
            ConfigError: another number of grids, or a grid that the source cannot have.
        """
        grid = one_grid(grids)
        if not isinstance(self.source, str):
            return self.source.shows(grid)
        return box_mask(self.boxes if shown is None else boxes_in_square(self.boxes, shown.facts), grid)


@dataclass(frozen=True)
class Inspected:
    """What the checker learns about one record.

    Args:
        where: file and number, for messages.
        id: the record's own id, None where the file gives it none.
        flaws: everything that is wrong with it.
    """

    where: str
    id: str | None
    flaws: tuple[Flaw, ...]


class BoxData(Protocol):
    """Records by index, 0 to len - 1; the same index is always the same record."""

    def __len__(self) -> int:
        """Count the records."""
        ...

    def __getitem__(self, index: int) -> BoxRecord:
        """Read or make one record.

        Raises:
            IndexError: there is none of that index.
            MediaError: there is one, and it cannot be used; `check_data` finds all of them beforehand.
        """
        ...

    def inspect(self, index: int, images: str) -> Inspected:
        """Look for everything that may be wrong with a record; ``images`` as for `check_data`."""
        ...


class Chosen:
    """Some records of a data set: what a checker left, or one rank's share.

    Args:
        data: the whole.
        indices: which, in order; kept as one int64 array.

    Raises:
        ConfigError: an index that the data set does not have, or none at all.
    """

    def __init__(self, data: BoxData, indices: Sequence[int] | np.ndarray) -> None:
        self._data, self._indices = data, np.asarray(indices, np.int64)
        if self._indices.ndim != 1 or not len(self._indices):
            raise ConfigError("no record is left to choose: correct the data set, or choose other records")
        if self._indices.min() < 0 or self._indices.max() >= len(data):
            raise ConfigError(
                f"indices go from 0 to {len(data) - 1}, got {int(self._indices.min())} to {int(self._indices.max())}: "
                "take those that check_data gave for this data set"
            )

    def __len__(self) -> int:
        """Count the records."""
        return len(self._indices)

    def __getitem__(self, index: int) -> BoxRecord:
        """Read or make one record."""
        return self._data[self._inner(index)]

    def __iter__(self) -> Iterator[BoxRecord]:
        """Read or make one record after the other."""
        return (self[index] for index in range(len(self)))

    def inspect(self, index: int, images: str) -> Inspected:
        """Look for everything that may be wrong with a record."""
        return self._data.inspect(self._inner(index), images)

    def _inner(self, index: int) -> int:
        return int(self._indices[check_index(index, len(self))])


def check_index(index: int, count: int) -> int:
    """Return the index.

    Raises:
        IndexError: it is not from 0 to ``count`` - 1.
    """
    if not 0 <= index < count:
        raise IndexError(f"record {index} of {count}: indices go from 0 to {count - 1}")
    return int(index)
