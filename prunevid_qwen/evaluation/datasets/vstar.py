"""V* Bench (Wu and Xie, arXiv 2312.14135): 191 questions about small things in large images, of two categories."""

from __future__ import annotations

import re

from prunevid_qwen.errors import ConfigError, quoted
from prunevid_qwen.evaluation.datasets.annotations import Row, rows
from prunevid_qwen.evaluation.datasets.choices import given_letter, without_letters
from prunevid_qwen.evaluation.datasets.places import first_there
from prunevid_qwen.evaluation.datasets.record import Media, Record
from prunevid_qwen.evaluation.datasets.registry import Dataset, Wanted, no_questions, register

LETTER_REQUEST = "Answer with the option's letter from the given choices directly."
"""What the file appends to every question; it belongs to a prompt, which may ask otherwise."""

_REPOSITORIES = ("craigwu/vstar_bench",)
_OPTION = re.compile(r"^\s*\(([A-Z])\)", re.MULTILINE)


@register(
    "vstar",
    "V*",
    ("test",),
    "  test_questions.jsonl\n  direct_attributes/*.jpg, relative_position/*.jpg",
)
def read(wanted: Wanted) -> Dataset:
    """Read the questions of craigwu/vstar_bench; question and options are taken apart, the request for a letter off."""
    shelves = wanted.shelves(*_REPOSITORIES)
    files = shelves.files("test_questions.jsonl")
    if not files:
        if shelves.files("**/*.parquet"):
            raise ConfigError(
                f"{wanted.folder} holds V* as a table with the images inside: download craigwu/vstar_bench, whose "
                "images are files, and pass its folder"
            )
        raise no_questions(wanted, "vstar", "test_questions.jsonl")
    roots = [wanted.folder, *shelves.snapshots()]
    records = []
    for row in rows(files):
        name = row.text("image")
        image = first_there(root / name for root in roots) or wanted.folder / name
        records.append(_record(row, str(image)))
    return Dataset("vstar", "V*", wanted.part, wanted.folder, tuple(records), tuple(files), "category", 191)


def _record(row: Row, image: str) -> Record:
    question, options = _take_apart(row)
    category = row.text("category")
    answer = given_letter(row.text("label"), options, row.where)
    groups = {"category": category, "video": row.text("image")}
    return Record(f"{category}/{row.text('question_id')}", (Media("image", image),), question, options, answer, groups)


def _take_apart(row: Row) -> tuple[str, tuple[str, ...]]:
    text = row.text("text").strip().removesuffix(LETTER_REQUEST).rstrip()
    starts = [match.start() for match in _OPTION.finditer(text)]
    lines = [text[begin:end].strip() for begin, end in zip(starts, [*starts[1:], None], strict=False)]
    options = without_letters(lines)
    if len(options) < 2 or options == tuple(lines):
        raise ConfigError(
            f"{row.where}: the text {quoted(text)} holds no options (A), (B) and so on, a line each: "
            "is this the file of V*?"
        )
    return text[: starts[0]].strip(), options
