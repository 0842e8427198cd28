"""The records of a recipe: several data sets in a row, each with the reward that scores its answers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import torch

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.errors import ConfigError, MediaError, quoted
from prunevid_qwen.inputs.qwen.preprocessor import Preprocessor, PromptSource
from prunevid_qwen.training.glimpse.data import open_data
from prunevid_qwen.training.glimpse.opened import IGNORED, Progress, look_at, spec_of, usable
from prunevid_qwen.training.glimpse.records import BoxData, BoxRecord, Chosen, check_index
from prunevid_qwen.training.glimpse_plus.policy import Prompts
from prunevid_qwen.training.glimpse_plus.recipe import OWN_OPTIONS, REWARDS

_REMEMBERED = 64  # prompts whose media are kept: an answer is drawn, compared and learnt within one step


class Entries:
    """Records of several data sets, counted through.

    Args:
        parts: each data set with the name of its reward, at least one.
    """

    def __init__(self, parts: Sequence[tuple[BoxData, str]]) -> None:
        self._parts = tuple(parts)
        self._ends = list(accumulate(len(data) for data, _ in parts))

    def __len__(self) -> int:
        """Count the records."""
        return self._ends[-1]

    def __getitem__(self, index: int) -> BoxRecord:
        """Read or make one record."""
        part, own = self._place(index)
        return self._parts[part][0][own]

    def entry(self, index: int) -> int:
        """Return the number of the data set that a record is of."""
        return self._place(index)[0]

    def reward(self, index: int) -> str:
        """Return the name of the reward that scores answers to a record."""
        return self._parts[self.entry(index)][1]

    def _place(self, index: int) -> tuple[int, int]:
        index = check_index(index, len(self))
        part = int(np.searchsorted(self._ends, index, side="right"))
        return part, index - (self._ends[part - 1] if part else 0)


def open_entries(
    name: str, given: Sequence[Mapping[str, Any]], *, skip_bad: bool, check: bool = True, tell: Progress | None = None
) -> Entries | None:
    """Open what a recipe lists; None where it lists nothing.

    Args:
        name: "data" or "eval_data", of which moving_shapes has to be held out.
        given: as in the recipe.
        skip_bad: go on without unusable records.
        check: look at every record.
        tell: told of the check.

    Raises:
        ConfigError, MediaError: an entry is wrong, missing, or holds records that cannot be trained on.
    """
    parts: list[tuple[BoxData, str]] = []
    wrong: list[ConfigError | MediaError] = []
    for number, entry in enumerate(given):
        options = {option: value for option, value in entry.items() if option not in OWN_OPTIONS}
        try:
            data = open_data(spec_of(name, options))
            if check:
                reports = look_at({f"{name}[{number}]": data}, tell)
                report = next(iter(reports.values()))
                if not skip_bad:
                    report.raise_for_problems(IGNORED)
                data = usable({f"{name}[{number}]": data}, reports)[f"{name}[{number}]"]
        except (ConfigError, MediaError) as error:
            wrong.append(type(error)(f"entry {number} of {name}: {error}"))
            continue
        if entry.get("only"):
            data = _about(data, str(entry["only"]), f"entry {number} of {name}")
        parts.append((data, entry.get("reward", REWARDS[0])))
    if wrong:
        raise type(wrong[0])("\n".join(map(str, wrong)))
    return Entries(parts) if parts else None


def _about(data: BoxData, said: str, where: str) -> BoxData:
    """Return the records whose question holds a text."""
    chosen = [index for index in range(len(data)) if said in data[index].question]
    if not chosen:
        raise ConfigError(f"{where} has only: {quoted(said)}, but no question of its {len(data)} records says so")
    return Chosen(data, chosen)


class PromptReader:
    """Reads prompts and box masks by the number of their record; remembers the media of the newest.

    Args:
        entries: the records.
        preprocessor: of the model.
        max_pixels: of a picture, or None.
    """

    def __init__(self, entries: Entries, preprocessor: Preprocessor, max_pixels: int | None) -> None:
        self.entries, self.preprocessor = entries, preprocessor
        self._config = PruneVidConfig(max_pixels=max_pixels)
        self._held: OrderedDict[int, tuple[PromptSource, torch.Tensor]] = OrderedDict()

    def columns(self, indices: Sequence[int]) -> dict[str, list[Any]]:
        """Return what rewards and trl are told of some records, a list for each column."""
        records = [self.entries[index] for index in indices]
        return {
            "record": list(indices),
            "prompt": [record.question for record in records],
            "question": [record.question for record in records],
            "answer": [record.answer for record in records],
            "reward": [self.entries.reward(index) for index in indices],
        }

    def prompts(self, indices: Sequence[int]) -> Prompts:
        """Read the prompts of some records, on the CPU.

        Raises:
            MediaError: a picture cannot be read.
        """
        read = [self._read(index) for index in indices]
        return Prompts(self.preprocessor.batch([sample for sample, _ in read]), tuple(marks for _, marks in read))

    def _read(self, index: int) -> tuple[PromptSource, torch.Tensor]:
        if index in self._held:
            self._held.move_to_end(index)
            return self._held[index]
        record, merge = self.entries[index], self.preprocessor.media.merge_size
        sample = self.preprocessor.sample(record.messages(self.preprocessor.media), self._config)
        grids = [medium.grid[0].tolist() for medium in sample.media]  # type: ignore[union-attr]
        marks = torch.from_numpy(record.mask([(t, h // merge, w // merge) for t, h, w in grids])).float()
        self._held[index] = sample, marks
        while len(self._held) > _REMEMBERED:
            self._held.popitem(last=False)
        return sample, marks
