"""The file that EgoSchema's server and its Kaggle competition mark: the number of an option for every question."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from prunevid_qwen.errors import ConfigError, quoted
from prunevid_qwen.evaluation.datasets.record import Record

NO_OPTION = -1
"""Stands for an answer that names no option: it is wrong, and no guess."""


def write_submission(
    path: Path, records: Sequence[Record], answers: Mapping[str, str | None], partial: bool = False
) -> Path:
    """Write the answers to EgoSchema's questions; uploading them is left to people.

    Args:
        path: ends in .json (``{q_uid: number}``, for the server) or .csv (``q_uid,answer``, for Kaggle).
        records: the questions of part "full", in whose order the file is written.
        answers: letters by id; None where a model's words name no option.
        partial: leave out questions that have no entry in ``answers``, instead of refusing.

    Returns: the path.

    Raises:
        ConfigError: another ending; questions without an entry; an entry that is no letter of its question, or of no
            question.
    """
    asked = {record.id: record for record in records}
    strange = [name for name in answers if name not in asked]
    if strange:
        raise ConfigError(
            f"{len(strange)} answers are to no question of EgoSchema, such as {quoted(strange[0])}: is this its run?"
        )
    absent = [name for name in asked if name not in answers]
    if absent and not partial:
        raise ConfigError(
            f"{len(absent)} of {len(asked)} questions have no answer, such as {absent[0]}: the server marks all of "
            "them; go on with the run, or write a part of it on purpose (partial=True)"
        )
    numbers = {name: _number(record, answers[name]) for name, record in asked.items() if name in answers}
    if path.suffix == ".json":
        text = json.dumps(numbers, indent=0) + "\n"
    elif path.suffix == ".csv":
        text = ""
    else:
        raise ConfigError(f"a submission is a .json (EgoSchema's server) or a .csv (Kaggle), got {quoted(path.name)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(text)
        if not text:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerows([("q_uid", "answer"), *numbers.items()])
    return path


def _number(record: Record, answer: str | None) -> int:
    if answer is None:
        return NO_OPTION
    if len(answer) != 1 or answer not in record.letters:
        raise ConfigError(
            f"the answer to {record.id} is {quoted(answer)}, expected one of {', '.join(record.letters)} or None"
        )
    return record.letters.index(answer)
