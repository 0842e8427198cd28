"""How a command is shown: what it returns, its exit code, and the options that every command has for it."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import typer

from prunevid_qwen.bundled import is_bundled
from prunevid_qwen.cli.option import opt
from prunevid_qwen.errors import ConfigError

PANEL = "Output"
NOT_SHOWN, SIGNALLED = 6, 128  # plus the signal's number, as shells have it
EXIT_CODES: dict[int, str] = {
    0: "done",
    2: "bad option, bad file, or the folder holds another run; nothing was started",
    3: "environment: a device, a package, a supported version or the network is missing",
    4: "media or data are missing or unreadable; what could be answered is kept",
    5: "pruning was asked for and was not applied",
    6: "measured, and no value was shown to keep the promise: nothing was written",
    129: "ended by a closed terminal (SIGHUP)",
    130: "ended by Ctrl-C (SIGINT)",
    143: "ended by SIGTERM",
}
"""Code and its meaning. A stopped run keeps what it stored, and the same command goes on. A bug shows its traceback."""
_FIGURES = ("lm", "dice", "bce", "f1", "kept", "reward", "kl", "entropy", "policy_gap")  # of a training, on its bar


@dataclass(frozen=True)
class Done:
    """What a command did.

    Args:
        told: ready for JSON: what ``--json`` prints.
        text: for people, on stdout; None: each name and value of ``told`` on a line; nothing where it is empty.
        exit_code: one of `EXIT_CODES`.
    """

    told: dict[str, Any] = field(default_factory=dict)
    text: str | None = None
    exit_code: int = 0


@dataclass(frozen=True)
class Reporting:
    """How every command reports. While one works, stdout is for the answer alone: libraries print on stderr."""

    as_json: bool = opt(False, "One JSON object on stdout, all else on stderr.", None, PANEL, spelling="json")
    quiet: bool = opt(False, "The result alone: no bars, no notes.", None, PANEL)
    verbose: bool = opt(False, "The log, and tracebacks of errors.", None, PANEL)
    stdout: TextIO = field(default_factory=lambda: sys.stdout)

    def note(self, text: str) -> None:
        """Say something on stderr that is not the result."""
        if not self.quiet:
            typer.echo(text, err=True)

    def note_missing(self, missing: Sequence[str], what: str, more: str, shown: int = 5) -> None:
        """Say on a line each which media or samples are missing, at most so many, and what becomes of the questions."""
        for each in missing[:shown]:
            self.note(f"missing: {each}")
        if missing:
            left = f" ({len(missing) - shown} more are not shown)" if len(missing) > shown else ""
            self.note(f"{len(missing)} {what}{left}{more}")

    def calm_libraries(self) -> None:
        """Keep transformers' warnings and bars and the hub's retries back, unless the log was asked for."""
        from huggingface_hub.utils import logging as hub
        from transformers.utils import logging

        if not self.verbose:
            hub.set_verbosity_error()
            logging.set_verbosity_error()
            logging.disable_progress_bar()

    @contextmanager
    def running(self, where: Path | str, model_path: str = "") -> Iterator[Bars]:
        """Yield progress bars for a run that answers or measures.

        Args:
            where: its results. Who interrupts it is told that they are kept, and how to go on.
            model_path: who answers. That it is the toy is said first, in colour on a terminal.
        """
        self.calm_libraries()
        if is_bundled(model_path):
            said = "note: the bundled toy answers, which knows moving shapes alone: pass -m for a real model"
            self.note(typer.style(said, fg="yellow"))
        try:
            with Bars(self.quiet) as bars:
                yield bars
        except KeyboardInterrupt as interruption:
            if not self.quiet:  # said behind the word that the run was interrupted
                kept = f"what was done is in {where}: the same command goes on where it was"
                interruption.kept = kept  # type: ignore[attr-defined]
            raise

    def can_plot(self, otherwise: str) -> bool:
        """Tell whether matplotlib is installed; where it is not, say how to install it and what there is without it."""
        found = importlib.util.find_spec("matplotlib") is not None
        if not found:
            self.note(f"no plots: matplotlib is not installed (pip install 'prunevid_qwen[bench]'). {otherwise}")
        return found


@dataclass(frozen=True)
class FileReporting(Reporting):
    """How a command reports whose result is one object."""

    out: Path | None = opt(None, "Also write the JSON object to this file.", "FILE", PANEL)

    def __post_init__(self) -> None:
        if self.out is not None and (self.out.is_dir() or not self.out.absolute().parent.is_dir()):
            raise ConfigError(f"--out {self.out} is a file to write, in a folder that exists")


def write(path: Path, text: str) -> None:
    """Write a file that an option names, and the folder it is to be in; a `ConfigError` says why that cannot be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {path} ({error.strerror}): pass another file with --out") from error


def check_config_file(path: Path, force: bool) -> None:
    """Refuse a file for a config that is there already, unless ``force``, or that cannot be one; `ConfigError`."""
    if path.exists() and not force:
        raise ConfigError(f"{path} is there already: name another file with --out, or pass --force to write over it")
    if path.suffix != ".json" or not path.absolute().parent.is_dir():
        raise ConfigError(f"--out {path} is a .json file to write, in a folder that exists")


def outline(told: Mapping[str, Any], indent: str = "") -> str:
    """Return what a command was told as lines: a name and its value, what has parts or sentences with them below."""
    lines = []
    for name, value in told.items():
        if isinstance(value, Mapping) and value:
            lines += [f"{indent}{name}:", outline(value, indent + "  ")]
        elif isinstance(value, (list, tuple)) and any(", " in str(each) for each in value):
            lines += [f"{indent}{name}:", *(f"{indent}  {each}" for each in value)]
        else:
            text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
            lines.append(f"{indent}{name}: {text}")
    return "\n".join(lines)


def terminal_table(markdown: str, keys: int = 1, columns: int | None = None) -> str:
    """Return a page's table, the first columns of it, for a terminal; the first ``keys`` say what a row is about."""
    from prunevid_qwen.evaluation.report.page import Table

    lines = [line.strip().strip("|") for line in markdown.splitlines() if line.startswith("|")]
    head, _, *rows = [[cell.strip() for cell in line.split("|")][:columns] for line in lines]
    return Table(head, rows).terminal(keys=keys)


def typed() -> str:
    """Return what was typed, for the record of a run."""
    return " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])


class Bars:
    """A bar for each part of the work, with the newest figures and the time left, on stderr; none if quiet."""

    def __init__(self, quiet: bool = False, console: Any = None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
        from rich.progress import TimeRemainingColumn as TimeLeft

        self.console = Console(stderr=True, quiet=quiet) if console is None else console
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        left = (TextColumn("left"), TimeLeft(), TextColumn("{task.fields[figures]}"))
        self.progress = Progress(*columns, *left, console=self.console)
        self.bars: dict[str, Any] = {}

    def tell(self, what: str, done: int, total: int, **more: str) -> None:
        """Move the bar of a part of the work; ``more`` is what stands behind it."""
        if what not in self.bars:
            self.bars[what] = self.progress.add_task(what, total=total, completed=done, figures="")
        self.progress.update(self.bars[what], completed=done, total=total, **more)  # type: ignore[arg-type]

    def tell_figures(self, what: str, done: int, total: int, figures: Mapping[str, Any]) -> None:
        """Move the bar of a part of a training; ``figures`` are what is new, {} where nothing is."""
        said = " ".join(f"{name} {figures[name] or 0:.3f}" for name in _FIGURES if name in figures)
        if said and not self.console.is_terminal:  # where nobody watches a bar, a line each
            step = f"at step {figures['step']}" if what == "evaluating" else f"{done}/{total}"
            self.console.print(f"{what} {step}  {said}", highlight=False, soft_wrap=True)
        self.tell(what, done, total, **({"figures": said} if said else {}))

    def __enter__(self) -> Bars:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()
