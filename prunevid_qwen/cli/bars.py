"""Progress bars on stderr, one for each part of the work."""

from __future__ import annotations

from typing import Any


class Bars:
    """A bar for each part of the work, with the time left, on stderr."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
        from rich.progress import TimeRemainingColumn as TimeLeft

        self.console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self.progress = Progress(*columns, TextColumn("left"), TimeLeft(), console=self.console)
        self.bars: dict[str, Any] = {}

    def tell(self, what: str, done: int, total: int) -> None:
        """Move the bar of a part of the work."""
        if what not in self.bars:
            self.bars[what] = self.progress.add_task(what, total=total, completed=done)
        self.progress.update(self.bars[what], completed=done)

    def __enter__(self) -> Bars:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()
