"""The bar that `prunevid ask` shows while it reads and encodes a long video."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from prunevid_qwen.cli.output import Reporting
from prunevid_qwen.cli.report import Report
from prunevid_qwen.cli.request import Request


def bar_of(moves: list[tuple[int, int]], as_json: bool = False, **console: Any) -> str:
    """What `Report.encoding` writes while videos are encoded."""
    written = io.StringIO()
    report = Report(Request(output=Reporting(as_json)))
    report.err = Console(file=written, width=100, **console)
    with report.encoding() as progress:
        for move in moves:
            if progress is not None:
                progress(*move)
                if move[0] < move[1]:
                    assert f"{move[0]}/{move[1]}" in written.getvalue()
    return written.getvalue()


def test_a_long_video_moves_a_bar_on_a_terminal() -> None:
    terminal = {"force_terminal": True, "force_interactive": True}
    shown = bar_of([(60, 3600), (3600, 3600)], **terminal)
    assert "reading and encoding" in shown and "frames" in shown
    assert shown.endswith("\x1b[2K"), "the bar is gone before the answer is printed"
    assert bar_of([(16, 16)], **terminal) == "", "a video of one chunk is over before a bar would be seen"
    assert bar_of([(60, 3600), (3600, 3600)], as_json=True, **terminal) == ""
    assert bar_of([(60, 3600), (3600, 3600)], force_terminal=False) == ""
