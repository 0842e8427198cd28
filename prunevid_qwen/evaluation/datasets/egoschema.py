"""EgoSchema (Mangalam et al., arXiv 2308.09126): 5031 questions about clips of three minutes; 500 come with answers.

Part ``subset`` is those 500. Part ``full`` is all of them without answers, as its server marks them: a score over the
500 that happen to be known must not stand under that name. See `egoschema_submission`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prunevid_qwen.errors import ConfigError
from prunevid_qwen.evaluation.datasets.annotations import Row, rows, table
from prunevid_qwen.evaluation.datasets.choices import letter_at, without_letters
from prunevid_qwen.evaluation.datasets.places import existing, video_place
from prunevid_qwen.evaluation.datasets.record import Media, Record
from prunevid_qwen.evaluation.datasets.registry import Dataset, Wanted, no_questions, register

_REPOSITORIES = ("lmms-lab/egoschema", "lmms-eval/egoschema")
_CONFIGS = {"subset": "Subset", "full": "GENERATION"}
_PUBLISHED = {"subset": 500, "full": 5031}
_OPTIONS = tuple(f"option {number}" for number in range(5))


@register(
    "egoschema",
    "EgoSchema",
    ("subset", "full"),
    "  questions.json, subset_answers.json   of the authors' repository; or Subset/ and GENERATION/ of the hub's\n"
    "  videos/<q_uid>.mp4",
)
def read(wanted: Wanted) -> Dataset:
    """Read the questions of a part, from the authors' files or from the hub's."""
    shelves = wanted.shelves(*_REPOSITORIES)
    folders = existing(wanted.folder / name for name in ("videos", "good_clips_git", "."))
    files = shelves.files("questions.json")
    if files and (wanted.part == "full" or (answers := shelves.files("subset_answers.json"))):
        known = _answers(answers[0]) if wanted.part == "subset" else {}
        read_from = [*files, *answers] if wanted.part == "subset" else files
        asked = {row.text("q_uid"): row for row in rows(files)}
        absent = [uid for uid in known if uid not in asked]
        if absent:
            raise ConfigError(
                f"{answers[0]} answers {len(absent)} questions that {files[0]} does not ask, such as {absent[0]}: the "
                "two files are of different releases; download both again"
            )
        chosen = [row for row in rows(files) if wanted.part == "full" or row.text("q_uid") in known]
        records = [_official(row, folders, known) for row in chosen]
    else:
        config = _CONFIGS[wanted.part]
        read_from = shelves.files(f"{config}/test-*.parquet") or shelves.prepared(config, "test")
        if not read_from:
            needed = "questions.json and subset_answers.json" if wanted.part == "subset" else "questions.json"
            raise no_questions(wanted, "egoschema", f"{needed}, or {config}/test-*.parquet")
        records = [_mirrored(row, folders, wanted.part == "subset") for row in rows(read_from)]
    return Dataset(
        "egoschema", "EgoSchema", wanted.part, wanted.folder, tuple(records), tuple(read_from), "part",
        _PUBLISHED[wanted.part],
    )  # fmt: skip


def _answers(path: Path) -> dict[str, Any]:
    known = table(path)
    if not isinstance(known, dict):
        raise ConfigError(
            f"{path} holds {type(known).__name__}, expected an object of answers by q_uid: is it the right file?"
        )
    return known


def _official(row: Row, folders: tuple[Path, ...], known: dict[str, Any]) -> Record:
    uid = row.text("q_uid")
    options = tuple(row.text(name) for name in _OPTIONS)
    answer = letter_at(known[uid], options, f"subset_answers.json, {uid}") if known else None
    return _record(uid, uid, row, options, answer, folders)


def _mirrored(row: Row, folders: tuple[Path, ...], with_answer: bool) -> Record:
    uid = row.text("video_idx")
    options = without_letters(row.texts("option"))
    return _record(
        uid, uid, row, options, letter_at(row.text("answer"), options, row.where) if with_answer else None, folders
    )


def _record(
    uid: str, video: str, row: Row, options: tuple[str, ...], answer: str | None, folders: tuple[Path, ...]
) -> Record:
    media = Media("video", str(video_place(folders, f"{video}.mp4")))
    part = "full" if answer is None else "subset"
    return Record(uid, (media,), row.text("question"), options, answer, {"part": part, "video": video})
