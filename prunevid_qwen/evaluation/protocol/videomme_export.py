"""Stored answers as the file that Video-MME's own script scores: videos, their questions, each with a "response"."""

from __future__ import annotations

import json
import string
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from prunevid_qwen.errors import ConfigError, quoted
from prunevid_qwen.evaluation.protocol.lines import Line, join

if TYPE_CHECKING:
    from prunevid_qwen.evaluation.datasets.record import Record

_OF_VIDEO = ("duration", "domain", "sub_category")


def official_text(records: Iterable[Record], lines: Iterable[Line], config: str) -> str:
    """Return one configuration's answers in the format of Video-MME's ``eval_your_results.py``.

    Responses are the raw answers. A question without one has the response "", which that script leaves out of its
    denominator; `summary` says how many there are.

    Args:
        records: of the whole data set; ids are its question ids ("001-1").
        lines: stored answers, of this and other configurations.
        config: whose.

    Raises:
        ConfigError: that configuration has no line, or a record is none of Video-MME.
    """
    answers = {line.id: line.raw for line in join(lines).lines if line.config == config}
    if not answers:
        raise ConfigError(f"no answers of {quoted(config)} to export: name a configuration of the run")
    videos: dict[str, dict[str, Any]] = {}
    for record in records:
        video, dash, _ = record.id.rpartition("-")
        lacking = [name for name in (*_OF_VIDEO, "task_type") if name not in record.groups]
        if not dash or lacking:
            raise ConfigError(
                f"record {quoted(record.id)} is none of Video-MME, whose ids read 001-1"
                + (f" and whose groups have {', '.join(lacking)}" if lacking else "")
            )
        about = {name: record.groups[name] for name in _OF_VIDEO}
        entry = videos.setdefault(video, {"video_id": video, **about, "questions": []})
        entry["questions"].append(
            {
                "question_id": record.id,
                "task_type": record.groups["task_type"],
                "question": record.question,
                "options": [f"{string.ascii_uppercase[i]}. {text}" for i, text in enumerate(record.options)],
                "answer": record.answer,
                "response": answers.get(record.id) or "",
            }
        )
    return json.dumps(list(videos.values()), indent=1, ensure_ascii=False) + "\n"
