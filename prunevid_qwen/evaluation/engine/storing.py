"""The lines of a run: what is answered already, and what an engine answers, stored as it comes.

Each process that answers appends to a file of its own, so that any number of them can go on with a run.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path

from prunevid_qwen.errors import ConfigError
from prunevid_qwen.evaluation.engine.task import Line, Task
from prunevid_qwen.evaluation.store import Lines, RunFolder, read_lines
from prunevid_qwen.evaluation.store import Progress as Progress

_ANSWERS = "answers*.jsonl"

TABLES = ("summary.json", "summary.csv", "report.md")
"""The files of a run's tables."""

Shard = tuple[int, int]
"""(which, of how many): the part of the tasks that one process answers."""

WHOLE: Shard = (0, 1)


def run_folder(path: Path) -> RunFolder:
    """Return the folder of a run whose answers processes may share, with its tables."""
    return RunFolder(path, (_ANSWERS, *TABLES))


def answers_of(folder: Path, shard: Shard = WHOLE) -> Path:
    """Return the file that a shard's answers go to."""
    number, count = shard
    return folder / ("answers.jsonl" if count == 1 else f"answers-{number}-of-{count}.jsonl")


def answer_files(folder: Path) -> list[Path]:
    """Return the files of answers, of however many processes, sorted."""
    return sorted(folder.glob(_ANSWERS))


def answered(folder: Path, hashes: Mapping[str, str]) -> set[tuple[str, str]]:
    """Return (config, id) of what the configs in ``hashes`` have answered but for errors; raises as `own_lines`."""
    lines = (each for path in answer_files(folder) for each in own_lines(path, hashes.get, "another folder"))
    return {(line["config"], line["id"]) for _, line in lines if line["error"] is None}


def own_lines(path: Path, run_of: Callable[[str], str | None], another: str) -> Iterator[tuple[str, Line]]:
    """Yield "file:line" and the line of each answer of a run, whose hash ``run_of`` gives for a config.

    A config without one is passed over. A `ConfigError` says that a line is of another run, or none of answers, and to
    pass ``another`` place.
    """
    for number, line in enumerate(read_lines(path), 1):
        where = f"{path}:{number}"
        if not {"config", "id", "error", "run"} <= line.keys():
            raise ConfigError(f"{where} is no answer of a run: take the line out, or pass --restart or {another}")
        run = run_of(line["config"])
        if run is not None and line["run"] != run:
            raise ConfigError(
                f"{where} is of another run of {line['config']!r} (hash {line['run']:.12}, now {run:.12}): pass "
                f"--restart or {another}"
            )
        if run is not None:
            yield where, line


def store_answers(
    path: Path,
    tasks: Sequence[Task],
    answer: Callable[[], Generator[Line, None, None]],
    total: int,
    tell: Progress = lambda *_: None,
    stored: Callable[[Line], Line] = lambda line: line,
    otherwise: str = "wait for it, or pass another folder",
) -> None:
    """Store each line of the tasks that are left, as ``stored`` makes it, as soon as it is there.

    Args:
        path, otherwise: as of `Lines`.
        answer: begins to answer the tasks; not called where nothing is left.
        total: lines of the whole run; those that ``tasks`` will not give are there.
    """
    done = total - sum(task.answers for task in tasks)
    tell("answering", done, total)
    if not tasks:
        return
    with Lines(path, otherwise) as lines, closing(answer()) as made:
        for number, line in enumerate(made, done + 1):
            lines.add(stored(line))
            tell("answering", number, total)
