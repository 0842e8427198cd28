"""MLVU (Zhou et al., arXiv 2406.04264), the seven tasks of its dev set that have options.

Two videos of different tasks can have one name, so a video is known by its folder and its name.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from prunevid_qwen.evaluation.datasets.annotations import Row, rows
from prunevid_qwen.evaluation.datasets.choices import letter_of
from prunevid_qwen.evaluation.datasets.places import existing, video_place
from prunevid_qwen.evaluation.datasets.record import Media, Record
from prunevid_qwen.evaluation.datasets.registry import Dataset, Problem, Wanted, no_questions, register

TASKS = {
    "plotQA": ("1_plotQA", 539),
    "needle": ("2_needle", 355),
    "ego": ("3_ego", 352),
    "count": ("4_count", 206),
    "order": ("5_order", 259),
    "anomaly_reco": ("6_anomaly_reco", 200),
    "topic_reasoning": ("7_topic_reasoning", 264),
}
"""Task -> name of its file and folder, published questions. M-Avg is the mean of the seven tasks' accuracies."""

_REPOSITORIES = ("MLVU/MVLU",)


@register(
    "mlvu",
    "MLVU",
    ("dev",),
    "  json/1_plotQA.json ... 7_topic_reasoning.json   (or in data/)\n"
    "  video/1_plotQA/*.mp4 ...                        a folder for each task",
)
def read(wanted: Wanted) -> Dataset:
    """Read all tasks whose file is there; a task without one is a problem, no error."""
    shelves = wanted.shelves(*_REPOSITORIES)
    records: list[Record] = []
    files: list[Path] = []
    problems: list[Problem] = []
    for task, (name, published) in TASKS.items():
        found = shelves.files(f"json/{name}.json", f"data/{name}.json", f"{name}.json")
        if not found:
            path = wanted.folder / "json" / f"{name}.json"
            problems.append(Problem("missing", str(path), f"the {published} questions of {task} are in it"))
        files += found
        folders = _folders(wanted.folder, task, name)
        records += [_record(task, name, folders, number, row) for number, row in enumerate(rows(found))]
    if not files:
        raise no_questions(wanted, "mlvu", "json/1_plotQA.json and so on")
    published = sum(count for _, count in TASKS.values())
    return Dataset(
        "mlvu", "MLVU", wanted.part, wanted.folder, tuple(records), tuple(files), "task", published, tuple(problems),
    )  # fmt: skip


def _folders(folder: Path, task: str, name: str) -> tuple[Path, ...]:
    return existing(folder / root / each for root in ("video", "videos", "") for each in (name, task))


def _record(task: str, name: str, folders: tuple[Path, ...], number: int, row: Row) -> Record:
    found = f"{task}/{number}"
    row = dataclasses.replace(row, where=f"{row.where} ({found})")
    options = row.texts("candidates")
    video = row.text("video")
    return Record(
        found,
        (Media("video", str(video_place(folders, video))),),
        row.text("question"),
        options,
        letter_of(row.text("answer"), options, row.where),
        {"task": task, "video": f"{name}/{video}"},
    )
