"""What a tiny family is: how its model is built, what its images and videos are, and what the self-check shows it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

PAD, EOS, START, END, IMAGE, VIDEO, VOCAB = 0, 1, 2, 3, 4, 5, 300
MERGE, PATCH, SIDE = 2, 14, 4

TinyRow = Sequence[tuple[Any, ...]]
"""One prompt: a list of ("text", n), and of images and videos with their sizes, as the family's media take them."""


class TinyMedia(Protocol):
    """Makes the images and videos of some prompts, and keeps them in order."""

    def show(self, kind: str, size: Sequence[int], numbers: torch.Generator) -> tuple[list[int], list[int]]:
        """Make pixels of one; return its token ids and their types: 0 text, 1 image, 2 video.

        The ids may hold text: what the family's processor writes around a video and between its frames.
        """
        ...

    def inputs(self, first: int, last: int) -> dict[str, Any]:
        """Return what `generate` takes of the images and videos made from ``first`` on to before ``last``."""
        ...


@dataclass(frozen=True)
class TinyBatch:
    """What the self-check shows a model: two rows of unlike length, so that one is padded.

    Args:
        rows: of each frame's tokens an even number.
        text: tokens of each row that are not visual, with those that stand around videos and images.
        tokens: of each row's images and videos.
        merged: half of each frame's, where nothing is static and stage 1 does not pass it.
        options: of a config, beside those of every family.
    """

    rows: tuple[TinyRow, TinyRow]
    text: tuple[int, int]
    tokens: tuple[tuple[int, ...], tuple[int, ...]]
    merged: tuple[tuple[int, ...], tuple[int, ...]]
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TinyFamily:
    """How a tiny model of a family is built, and its inputs.

    Args:
        name: what the library's classes of it begin with.
        parts: from the decoder's config, what the model's config is made of.
        media: makes the images and videos of one call.
        shown: by the self-check.
        typed: prompts bring ``mm_token_type_ids`` along.
        since: the first release of transformers that has these classes, where that is later than 5.6.
    """

    name: str
    parts: Callable[[dict[str, Any]], dict[str, Any]]
    media: Callable[[], TinyMedia]
    shown: TinyBatch
    typed: bool = False
    since: str = "5.6"
