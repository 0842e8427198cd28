"""How far a training is, on stderr: bars with the newest figures and the time left, or lines where nobody watches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SHOWN = ("lm", "dice", "bce", "f1", "kept")


class TrainingBars:
    """A bar for each part of a training run.

    Args:
        console: a rich console; None is stderr.
    """

    def __init__(self, console: Any = None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
        from rich.progress import TimeRemainingColumn as TimeLeft

        self.console = Console(stderr=True) if console is None else console
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeLeft(),
            TextColumn("{task.fields[figures]}"),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.bars: dict[str, Any] = {}

    def tell(self, what: str, done: int, total: int, figures: Mapping[str, float]) -> None:
        """Move the bar of a part of the work; ``figures`` are what is new, {} where nothing is."""
        said = " ".join(f"{name} {figures[name]:.3f}" for name in _SHOWN if name in figures)
        if said and not self.console.is_terminal:
            step = f"{done}/{total}" if what == "training" else f"at step {figures['step']}"
            self.console.print(f"{what} {step}  {said}", highlight=False, soft_wrap=True)
        if what not in self.bars:
            self.bars[what] = self.progress.add_task(what, total=total, completed=done, figures="")
        more: dict[str, Any] = {"figures": said} if said else {}
        self.progress.update(self.bars[what], completed=done, total=total, **more)

    def __enter__(self) -> TrainingBars:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()
