"""The authors' answers for methods of papers: cases with inputs and outputs, and the real reducers driven over them.

A file holds arrays ``<method>.<case>.in.<name>`` and ``<method>.<case>.out.<name>`` and, as JSON in ``meta``, the
parameters of each case; tests/data/method_reference/README.md says what each array is. That folder has a file for each
method, ``python -m tests.make_method_extract FILE METHOD CASE ...`` writes one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
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
EXTRACT = HERE / "data" / "method_reference"


def default_source() -> Path:
    """The file that lies beside the project, where it does; else the folder of extracts that is part of it."""
    return GIVEN if GIVEN.is_file() else EXTRACT


@dataclass(frozen=True)
class Case:
    """One case of a file.

    Args:
        source: the file that it is from, or a folder of files.
        method: as the file calls it.
        number: of the case.
        params: its parameters.
    """

    source: Path
    method: str
    number: int
    params: dict[str, Any]

    def __getitem__(self, name: str) -> Tensor:
        return torch.from_numpy(_arrays(self.source)[f"{self.method}.{self.number}.{name}"])

    def stages(self, name: str) -> Iterator[int]:
        """Count the stages that have an array of this name."""
        stage = 0
        while f"{self.method}.{self.number}.{name}{stage}" in _arrays(self.source):
            yield stage
            stage += 1


_SOURCES: dict[Path, dict[str, np.ndarray[Any, Any]]] = {}
_META: dict[Path, list[dict[str, Any]]] = {}


def _arrays(source: Path) -> dict[str, np.ndarray[Any, Any]]:
    if source not in _SOURCES:
        _SOURCES[source], _META[source] = {}, []
        for file in sorted(source.glob("*.npz")) if source.is_dir() else [source]:
            with np.load(file) as arrays:
                _SOURCES[source].update(arrays)
            _META[source] += json.loads(_SOURCES[source]["meta"].tobytes())
    return _SOURCES[source]


def constant(source: Path, name: str) -> Tensor | None:
    """Return an array without a case, or None where there is none of that name."""
    array = _arrays(source).get(name)
    return None if array is None else torch.from_numpy(array)


def cases(source: Path, method: str = "") -> list[Case]:
    """List the cases of a file or of a folder of files: those of a method, or all."""
    _arrays(source)
    return [
        Case(source, each["method"], each["case"], each["params"])
        for each in _META[source]
        if method in ("", each["method"])
    ]


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


def decided(reducer: Reducer, tokens: Tensor, **vision: Tensor) -> TokenMap:
    """Let a merger decide about a video of one row of tokens.

    Args:
        reducer: of stage 1.
        tokens: [F, p, D].
        vision: [F, p] evidence of the vision tower's only block that it asks for.
    """
    frames, size, _ = tokens.shape
    layout = replace(layout_of(2, frames * size, 3), blocks=(Block("video", (frames, 1, size), 0, frames * size),))
    seen = {kind: each.reshape(1, frames * size) for kind, each in vision.items()}
    return reducer.plan(Evidence(layout, tokens.flatten(0, 1), tokens[:0, 0], vision=seen or None))
