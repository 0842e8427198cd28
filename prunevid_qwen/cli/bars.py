"""Progress bars on stderr, one for each part of the work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_FIGURES = ("lm", "dice", "bce", "f1", "kept")  # of a training, in this order


class Bars:
    """A bar for each part of the work, with the newest figures and the time left, on stderr.

    Args:
        quiet: show nothing.
        console: a rich console; None is stderr.
    """

    def __init__(self, quiet: bool = False, console: Any = None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
        from rich.progress import TimeRemainingColumn as TimeLeft

        self.console = Console(stderr=True, quiet=quiet) if console is None else console
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        left = (TextColumn("left"), TimeLeft(), TextColumn("{task.fields[figures]}"))
        self.progress = Progress(*columns, *left, console=self.console)
        self.bars: dict[str, Any] = {}

    def tell(self, what: str, done: int, total: int) -> None:
        """Move the bar of a part of the work."""
        self._move(what, done, total)

    def tell_figures(self, what: str, done: int, total: int, figures: Mapping[str, float]) -> None:
        """Move the bar of a part of a training; ``figures`` are what is new, {} where nothing is."""
        said = " ".join(f"{name} {figures[name]:.3f}" for name in _FIGURES if name in figures)
        if said and not self.console.is_terminal:  # where nobody watches a bar, a line each
            step = f"{done}/{total}" if what == "training" else f"at step {figures['step']}"
            self.console.print(f"{what} {step}  {said}", highlight=False, soft_wrap=True)
        self._move(what, done, total, **({"figures": said} if said else {}))

    def _move(self, what: str, done: int, total: int, **more: Any) -> None:
        if what not in self.bars:
            self.bars[what] = self.progress.add_task(what, total=total, completed=done, figures="")
        self.progress.update(self.bars[what], completed=done, total=total, **more)

    def __enter__(self) -> Bars:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()
