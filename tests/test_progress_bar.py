"""The line that `prunevid ask` shows while it reads and encodes a long video."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from prunevid_qwen.cli.output import Reporting
from prunevid_qwen.cli.report import Report


def line_of(moves: list[tuple[int, int]], quiet: bool = False, **console: Any) -> str:
    """What a report writes while videos are encoded."""
    written = io.StringIO()
    report = Report(Reporting(quiet=quiet), {})
    report.err = Console(file=written, width=100, **console)
    with report.watching():
        for move in moves:
            report.tell_encoded(*move)
    return written.getvalue()


def test_a_terminal_is_told_how_far_a_long_video_is() -> None:
    terminal = {"force_terminal": True, "force_interactive": True}
    shown = line_of([(60, 3600), (3600, 3600)], **terminal)
    assert "reading and encoding" in shown and "60/3600 frames" in shown
    assert shown.endswith("\x1b[2K"), "the line is gone before the answer is printed"
    assert line_of([(16, 16)], **terminal) == "", "a video of one chunk is over before a line would be seen"
    assert line_of([(60, 3600), (3600, 3600)], quiet=True, **terminal) == ""
    assert line_of([(60, 3600), (3600, 3600)], force_terminal=False) == ""
