"""The line that `prunevid ask` shows while it reads and encodes a long video."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from prunevid_qwen.cli import report as reporting
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
    assert "left" not in shown, "one chunk says nothing of the speed"
    assert line_of([(16, 16)], **terminal) == "", "a video of one chunk is over before a line would be seen"
    assert line_of([(60, 3600), (3600, 3600)], quiet=True, **terminal) == ""
    assert line_of([(60, 3600), (3600, 3600)], force_terminal=False) == ""


def test_the_time_left_is_said_from_the_second_chunk_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """60 frames take 30 seconds; where damage makes the video begin anew, so does the clock."""
    times = iter([100.0, 130.0, 140.0, 150.0])
    monkeypatch.setattr(reporting, "time", SimpleNamespace(monotonic=lambda: next(times)))
    told: list[str] = []
    monkeypatch.setattr(Report, "tell", lambda self, words: told.append(words))
    line_of([(60, 3600), (120, 3600), (30, 3600), (60, 3600), (3600, 3600)])
    assert ["left" in each for each in told] == [False, True, False, True]
    assert "0:29:00" in told[1] and "0:19:40" in told[3]
