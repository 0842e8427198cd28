"""Stored answers as the files that benchmarks' authors score: Video-MME's own script, EgoSchema's server and Kaggle."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from prunevid_qwen.errors import ConfigError, quoted
from prunevid_qwen.evaluation.datasets.record import Record
from prunevid_qwen.evaluation.protocol.score_summary import Line, join
from prunevid_qwen.evaluation.protocol.scorers import Output, ours
from prunevid_qwen.evaluation.report.page import csv_text, json_text
from prunevid_qwen.evaluation.store import replace

_NO_OPTION = -1  # stands for an answer that names no option in EgoSchema's file: it is wrong, and no guess
_OF_VIDEO = ("duration", "domain", "sub_category")


def official_text(records: Iterable[Record], lines: Iterable[Line], config: str) -> str:
    """Return one config's raw answers in the format of Video-MME's ``eval_your_results.py``.

    A question without one has the response "", which that script leaves out of its denominator.

    Args:
        records: of the whole data set; ids are its question ids ("001-1").

    Raises:
        ConfigError: that config has no line, or a record is none of Video-MME.
    """
    answers = {line["id"]: line["raw"] for line in join(lines)[0] if line["config"] == config}
    if not answers:
        raise ConfigError(f"no answers of {quoted(config)} to export: name a configuration of the run")
    videos: dict[str, dict[str, Any]] = {}
    for record in records:
        video, dash, _ = record.id.rpartition("-")
        lacking = [name for name in (*_OF_VIDEO, "task_type") if name not in record.groups]
        if not dash or lacking:
            raise ConfigError(
                f"record {quoted(record.id)} is none of Video-MME, whose ids read 001-1 and whose groups have "
                f"{', '.join(_OF_VIDEO)} and task_type; it lacks {', '.join(lacking) or 'no group'}"
            )
        about = {name: record.groups[name] for name in _OF_VIDEO}
        entry = videos.setdefault(video, {"video_id": video, **about, "questions": []})
        entry["questions"].append(
            {
                "question_id": record.id,
                "task_type": record.groups["task_type"],
                "question": record.question,
                "options": [f"{letter}. {text}" for letter, text in zip(record.letters, record.options, strict=True)],
                "answer": record.answer,
                "response": answers.get(record.id) or "",
            }
        )
    return json_text(list(videos.values()))


def write_submission(
    path: Path, records: Sequence[Record], lines: Iterable[Line], config: str, prefill: str, partial: bool = False
) -> None:
    """Write one config's answers to EgoSchema's questions, the number of an option for each; people upload it.

    Args:
        path: ends in .json (``{q_uid: number}``, for the server) or .csv (``q_uid,answer``, for Kaggle).
        records: the questions of part "full", in whose order the file is written.
        prefill: how the prompt began the answer.
        partial: leave out questions without an answer, instead of refusing.

    Raises:
        ConfigError: another ending; questions without an answer; an answer to none of them.
    """
    own = {line["id"]: line for line in join(lines)[0] if line["config"] == config and line["error"] is None}
    if strange := sorted(own.keys() - {record.id for record in records}):
        raise ConfigError(
            f"{len(strange)} answers are to no question of EgoSchema, such as {quoted(strange[0])}: is this its run?"
        )
    absent = [record.id for record in records if record.id not in own]
    if absent and not partial:
        raise ConfigError(
            f"{len(absent)} of {len(records)} questions have no answer, such as {absent[0]}: the server marks all of "
            "them; go on with the run, or write a part of it on purpose (--partial)"
        )
    numbers = {}
    for record in records:
        if line := own.get(record.id):
            letter = ours(Output(line["raw"], tuple(line["options"]), prefill)).letter
            numbers[record.id] = _NO_OPTION if letter is None else record.letters.index(letter)
    if path.suffix == ".json":
        text = json.dumps(numbers, indent=0) + "\n"
    elif path.suffix == ".csv":
        text = csv_text({"q_uid": name, "answer": number} for name, number in numbers.items())
    else:
        raise ConfigError(f"a submission is a .json (EgoSchema's server) or a .csv (Kaggle), got {quoted(path.name)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    replace(path, text.encode())
