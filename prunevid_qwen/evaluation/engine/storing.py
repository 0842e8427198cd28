"""The lines of a run: what is answered already, and what an engine answers, stored as it comes.

Each process that answers appends to a file of its own, so any number of processes, on any machines that share the
folder, can go on with a run.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from pathlib import Path

from prunevid_qwen.errors import ConfigError
from prunevid_qwen.evaluation.engine.tasks import Line, Task
from prunevid_qwen.evaluation.store import Lines, RunFolder, read_lines
from prunevid_qwen.evaluation.store import Progress as Progress

_ANSWERS = "answers*.jsonl"

Shard = tuple[int, int]
"""(which, of how many): the part of the tasks that one process answers."""

WHOLE: Shard = (0, 1)


def run_folder(path: Path) -> RunFolder:
    """Return the folder of a run whose answers processes may share, with its tables."""
    return RunFolder(path, (_ANSWERS, "report.md", "summary.csv", "summary.json"))


def answers_of(folder: Path, shard: Shard = WHOLE) -> Path:
    """Return the file that a shard's answers go to."""
    number, count = shard
    return folder / ("answers.jsonl" if count == 1 else f"answers-{number}-of-{count}.jsonl")


def answer_files(folder: Path) -> list[Path]:
    """Return the files of answers, of however many processes, sorted."""
    return sorted(folder.glob(_ANSWERS))


def answered(folder: Path, hashes: Mapping[str, str]) -> set[tuple[str, str]]:
    """Return (config, id) of what the configs in ``hashes`` have answered; what failed is to be asked again.

    Raises:
        ConfigError: a line is of another run, or no line of answers.
    """
    done = set()
    for path in answer_files(folder):
        for number, line in enumerate(read_lines(path), 1):
            if not {"config", "id", "error", "run"} <= line.keys():
                raise ConfigError(f"{path}:{number} is no answer of a run: take the line out, or pass --restart")
            wanted = hashes.get(line["config"])
            if wanted is None:  # not asked now
                continue
            if line["run"] != wanted:
                raise ConfigError(
                    f"{path}:{number} is of another run of {line['config']!r} (hash {line['run']:.12}, now "
                    f"{wanted:.12}): pass --restart or another folder"
                )
            if line["error"] is None:
                done.add((line["config"], line["id"]))
    return done


def store_answers(
    path: Path,
    tasks: Sequence[Task],
    answer: Callable[[], Generator[Line, None, None]],
    total: int,
    tell: Progress = lambda *_: None,
    stored: Callable[[Line], Line] = lambda line: line,
    otherwise: str = "wait for it, or pass another folder",
) -> None:
    """Store each line of what is left to ask as soon as it is there.

    Args:
        path: of the lines.
        tasks: what is left.
        answer: begins to answer them; not called where nothing is left.
        total: lines of the whole run; those that ``tasks`` will not give are there.
        tell: told of the progress.
        stored: what is stored of a line.
        otherwise: see `Lines`.
    """
    done = total - sum(task.answers for task in tasks)
    tell("answering", done, total)
    if not tasks:
        return
    with Lines(path, otherwise) as lines, closing(answer()) as made:
        for number, line in enumerate(made, done + 1):
            lines.add(stored(line))
            tell("answering", number, total)
