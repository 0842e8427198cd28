"""The authors' answers for other methods than PruneVid: files of cases, and the real reducers driven over them.

A file holds arrays ``<method>.<case>.in.<name>`` and ``<method>.<case>.out.<name>`` and, as JSON in ``meta``, the
parameters of each case; tests/data/methods_reference.md says what each array is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prunevid_qwen.needs import Evidence
from prunevid_qwen.reducer import Reducer
from prunevid_qwen.tokens import Block, TokenLayout, TokenMap

HERE = Path(__file__).parent
GIVEN = HERE.parents[1] / "shared" / "reference" / "methods_reference.npz"
EXTRACT = HERE / "data" / "methods_reference.npz"


def default_file() -> Path:
    """The file that lies beside the project, where it does; else the extract that is part of it."""
    return GIVEN if GIVEN.is_file() else EXTRACT


@dataclass(frozen=True)
class Case:
    """One case of a file.

    Args:
        file: where it is from.
        method: as the file calls it.
        number: of the case.
        params: its parameters.
    """

    file: Path
    method: str
    number: int
    params: dict[str, Any]

    def __getitem__(self, name: str) -> Tensor:
        return torch.from_numpy(_arrays(self.file)[f"{self.method}.{self.number}.{name}"])

    def stages(self, name: str) -> Iterator[int]:
        """Count the stages that have an array of this name."""
        stage = 0
        while f"{self.method}.{self.number}.{name}{stage}" in _arrays(self.file):
            yield stage
            stage += 1


_FILES: dict[Path, dict[str, np.ndarray[Any, Any]]] = {}


def _arrays(file: Path) -> dict[str, np.ndarray[Any, Any]]:
    if file not in _FILES:
        with np.load(file) as arrays:
            _FILES[file] = dict(arrays)
    return _FILES[file]


def constant(file: Path, name: str) -> Tensor | None:
    """Return an array without a case, or None where the file has none of that name."""
    array = _arrays(file).get(name)
    return None if array is None else torch.from_numpy(array)


def cases(file: Path, method: str) -> list[Case]:
    """List the cases of a method in a file."""
    meta = json.loads(_arrays(file)["meta"].tobytes())
    return [Case(file, method, each["case"], each["params"]) for each in meta if each["method"] == method]


def layout_of(start: int, n: int, text: int) -> TokenLayout:
    """One image of ``n`` tokens between ``start`` tokens of text and ``text`` more."""
    visual = torch.arange(start, start + n)
    question = torch.arange(start + n, start + n + text)
    stratum = torch.zeros(n, dtype=torch.long)
    return TokenLayout(start + n + text, visual, question, (Block("image", (1, 1, n), 0, n),), stratum)


@dataclass
class Sequence:
    """A sequence that a reducer cuts, stage by stage; what the layers between do is nothing.

    Args:
        layout: now.
        hidden: [S, D] now.
        reducer: the one that cuts.
        entered: visual tokens before the first cut.
        origin: [S] places in the sequence as it came.
        note: of the reducer's `prepare`.
    """

    layout: TokenLayout
    hidden: Tensor
    reducer: Reducer
    entered: int
    origin: Tensor
    note: Any = None
    step: int = 0

    @classmethod
    def of(cls, layout: TokenLayout, hidden: Tensor, reducer: Reducer, note: Any = None) -> Sequence:
        """Start with a whole sequence."""
        return cls(layout, hidden, reducer, layout.visual.numel(), torch.arange(layout.length), note)

    def cut(self, attention: Tensor) -> TokenMap:
        """Let the reducer decide by an attention [N] or [Q, N], its natural logarithm, and carry it out."""
        before = self.layout
        seen = Evidence(
            before, self.hidden[before.visual], self.hidden[:0], attention, step=self.step, start=self.entered,
            note=self.note, entered=(self.entered,),
        )  # fmt: skip
        chosen = self.reducer.plan(seen)
        self.layout, whole = before.apply(chosen)
        self.hidden = before.made(self.hidden, chosen, self.layout, whole)
        self.origin, self.step = whole.take(self.origin, 0), self.step + 1
        return chosen
