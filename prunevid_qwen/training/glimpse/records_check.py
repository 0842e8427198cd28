"""Go through a data set before any model is loaded, and list what cannot be trained on.

>>> report = check_data(open_data(spec))  # doctest: +SKIP
>>> report.raise_for_problems()  # or: data = Chosen(data, report.skip_bad())  # doctest: +SKIP
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import numpy as np

from prunevid_qwen.errors import ConfigError, MediaError, quoted
from prunevid_qwen.training.glimpse.flaws import FLAWS
from prunevid_qwen.training.glimpse.pictures import IMAGE_CHECKS
from prunevid_qwen.training.glimpse.records import BoxData

_TELL_EVERY = 100  # records

CheckProgress = Callable[[int, int], None]
"""Told how many records are done, of how many."""


@dataclass(frozen=True)
class CheckReport:
    """What is wrong with a data set.

    Args:
        total: records looked at.
        counts: records with each kind of flaw, a key of `FLAWS`; kinds that do not occur are left out.
        examples: the first few of each kind, as sentences.
        bad: for each kind the indices of its records, [n] int64, rising.
    """

    total: int
    counts: dict[str, int]
    examples: dict[str, tuple[str, ...]]
    bad: dict[str, np.ndarray] = field(repr=False)

    def skip_bad(self, ignore: Collection[str] = ()) -> np.ndarray:
        """Return the indices of all records without a flaw: [n] int64, rising.

        Args:
            ignore: kinds of flaw that do not matter, such as "duplicate_id".

        Raises:
            ConfigError: ``ignore`` names something else.
        """
        fine = np.ones(self.total, bool)
        for kind in self._counted(ignore):
            fine[self.bad[kind]] = False
        return np.flatnonzero(fine)

    def lines(self) -> list[str]:
        """Say what was found, a line for each kind and its examples indented below; one line where all is well."""
        if not self.counts:
            return [f"all {self.total} records can be trained on"]
        found = []
        for kind, count in self.counts.items():
            found.append(f"{kind}: {count} of {self.total} records; {FLAWS[kind]}")
            found += [f"  {example}" for example in self.examples[kind]]
            if count > len(self.examples[kind]):
                found.append(f"  and {count - len(self.examples[kind])} more")
        return found

    def raise_for_problems(self, ignore: Collection[str] = ()) -> None:
        """Raise if any record has a flaw.

        Args:
            ignore: as for `skip_bad`.

        Raises:
            ConfigError: boxes are in another unit than was said, so an option is wrong.
            MediaError: anything else.
        """
        kinds = self._counted(ignore)
        if not kinds:
            return
        bad = self.total - len(self.skip_bad(ignore))
        told = ", ".join(f"{self.counts[kind]} {kind}" for kind in kinds)
        worst = "box_unit" if "box_unit" in kinds else max(kinds, key=lambda kind: self.counts[kind])
        error = ConfigError if worst == "box_unit" else MediaError
        raise error(
            f"{bad} of {self.total} records cannot be trained on ({told}). First {worst}: "
            f"{self.examples[worst][0]}: {FLAWS[worst]}; or go on without them (skip_bad)"
        )

    def _counted(self, ignore: Collection[str]) -> list[str]:
        unknown = set(ignore) - set(FLAWS)
        if isinstance(ignore, str) or unknown:
            raise ConfigError(f"ignore lists kinds of flaw, {', '.join(FLAWS)}; got {quoted(ignore)}")
        return [kind for kind in self.counts if kind not in ignore]


def check_data(
    data: BoxData, images: str = "verify", first: int = 5, progress: CheckProgress | None = None
) -> CheckReport:
    """Look at every record, one after the other; nothing is kept but the indices of bad ones and 8 bytes for each id.

    Args:
        data: what will be trained on.
        images: "none" opens pictures only where their size is not written; "size" reads their headers; "verify" does
            what Pillow can without decoding (a truncated jpeg passes); "decode" decodes them all.
        first: examples kept of each kind of flaw, at least 1.
        progress: told (done, total) now and then and at the end.

    Raises:
        ConfigError: an unknown value of ``images``, or ``first`` below 1.
    """
    if images not in IMAGE_CHECKS or first < 1:
        raise ConfigError(
            f"images is one of {', '.join(IMAGE_CHECKS)} and first at least 1, got "
            f"images={quoted(images)}, first={quoted(first)}"
        )
    bad: dict[str, array[int]] = {}
    examples: dict[str, list[str]] = {}
    ids, owners = array("Q"), array("q")

    def note(kind: str, index: int, sentence: str) -> None:
        bad.setdefault(kind, array("q")).append(index)
        if len(examples.setdefault(kind, [])) < first:
            examples[kind].append(sentence)

    for index in range(len(data)):
        found = data.inspect(index, images)
        seen: set[str] = set()
        for flaw in found.flaws:
            if flaw.kind not in seen:
                note(flaw.kind, index, f"{found.where}: {flaw.text}")
            seen.add(flaw.kind)
        if found.id is not None:
            ids.append(int.from_bytes(hashlib.blake2b(found.id.encode(), digest_size=8).digest(), "little"))
            owners.append(index)
        if progress is not None and (index + 1) % _TELL_EVERY == 0:
            progress(index + 1, len(data))
    for index in _repeated(ids, owners):
        found = data.inspect(index, "none")
        note("duplicate_id", index, f"{found.where}: an earlier record has the id {quoted(found.id)} too")
    if progress is not None:
        progress(len(data), len(data))
    kinds = [kind for kind in FLAWS if kind in bad]
    return CheckReport(
        len(data),
        {kind: len(bad[kind]) for kind in kinds},
        {kind: tuple(examples[kind]) for kind in kinds},
        {kind: np.array(bad[kind], np.int64) for kind in kinds},
    )


def _repeated(ids: array[int], owners: array[int]) -> list[int]:
    """Indices of the records whose id an earlier one has, rising."""
    values, indices = np.array(ids, np.uint64), np.array(owners, np.int64)
    order = np.argsort(values, kind="stable")
    again = np.flatnonzero(values[order][1:] == values[order][:-1]) + 1
    return sorted(int(index) for index in indices[order][again])
