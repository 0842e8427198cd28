"""Where the lines of ``verbose=True`` go: to whoever listens, to stderr when nobody does."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from prunevid_qwen.answers.stage_log import log_stages, logger, stage_lines

RECEIPT: dict[str, Any] = {
    "stage1": {
        "applied": True, "note": None, "merger": "prunevid", "original_tokens": 200, "compressed_tokens": 50,
        "static_ratio": 0.314, "reduction_percentage": 75.0,
    },
    "stage2": {
        "applied": True, "note": None, "selector": "fastv", "layer": 7, "original_tokens": 50, "compressed_tokens": 20,
        "achieved_ratio": 0.4,
    },
    "stage3": {
        "applied": True, "note": None, "original_length": 230, "compressed_length": 53, "reduction_ratio": 0.77,
    },
}  # fmt: skip


class Listener(logging.Handler):
    def __init__(self, level: int = logging.NOTSET) -> None:
        super().__init__(level)
        self.heard: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.heard.append(record)


@contextmanager
def handlers(*of_root: logging.Handler) -> Iterator[None]:
    """These handlers and no others, inside the test: pytest puts its own on the root, and where they would not come."""
    root = logging.getLogger()
    held = list(root.handlers)
    root.handlers[:] = of_root
    try:
        assert logger.hasHandlers() == bool(of_root)
        yield
        assert root.handlers == list(of_root) and not logger.handlers  # nothing was attached
        assert logger.level == logging.NOTSET
    finally:
        root.handlers[:] = held


def test_what_each_stage_did() -> None:
    one, two, three = stage_lines(RECEIPT)
    assert all(said in one for said in ("stage 1", "200 -> 50", "prunevid", "75.0 %", "31.4 %"))
    assert all(said in two for said in ("stage 2", "50 -> 20", "fastv", "layer 7", "40.0 %"))
    assert all(said in three for said in ("stage 3", "cache", "230 -> 53", "77.0 %"))


def test_a_line_for_each_of_several_cuts() -> None:
    places = (("door", 200, 50), ("layer 2", 50, 40), ("layer 7", 40, 20))
    steps = [{"name": "mine", "where": at, "tokens_in": given, "tokens_out": out} for at, given, out in places]
    last = {**RECEIPT["stage2"], "original_tokens": 40}
    _, earlier, latest, _ = stage_lines({**RECEIPT, "stage2": last, "steps": steps})
    assert all(said in earlier for said in ("stage 2", "50 -> 40", "mine", "layer 2"))
    assert "40 -> 20" in latest and "layer 7" in latest
    assert len(stage_lines({**RECEIPT, "steps": steps[::2]})) == 3


@pytest.mark.parametrize("stage", ["stage1", "stage2", "stage3"])
@pytest.mark.parametrize("note", ["no picture in it", None])
def test_why_a_stage_did_nothing(stage: str, note: str | None) -> None:
    number = int(stage[-1]) - 1
    lines = stage_lines({**RECEIPT, stage: {**RECEIPT[stage], "applied": False, "note": note}})
    assert lines[number].endswith(note or "off") and "->" not in lines[number]
    others = [line for at, line in enumerate(lines) if at != number]
    assert others == [line for at, line in enumerate(stage_lines(RECEIPT)) if at != number]


def test_without_any_logging_the_lines_are_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with handlers():
        log_stages(RECEIPT)
    said = capsys.readouterr()
    assert said.out == ""
    assert [line.removeprefix("prunevid_qwen: ") for line in said.err.splitlines()] == stage_lines(RECEIPT)


@pytest.mark.parametrize("level", [logging.NOTSET, logging.INFO])
def test_a_listener_hears_each_line_once_whatever_the_root_wants(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], level: int
) -> None:
    listener = Listener(level)
    monkeypatch.setattr(logging.getLogger(), "level", logging.ERROR)
    with handlers(listener):
        log_stages(RECEIPT, "sample 2 of 3, ")
    assert [record.getMessage() for record in listener.heard] == [f"sample 2 of 3, {x}" for x in stage_lines(RECEIPT)]
    assert {(record.name, record.levelno) for record in listener.heard} == {("prunevid_qwen", logging.INFO)}
    assert capsys.readouterr().err == ""


def test_silence_that_somebody_asked_for_is_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    deaf = Listener(logging.WARNING)
    with handlers(deaf):
        log_stages(RECEIPT)
    with handlers():
        monkeypatch.setattr(logger, "level", logging.WARNING)
        log_stages(RECEIPT)
        monkeypatch.setattr(logger, "level", logging.NOTSET)
        monkeypatch.setattr(logging.root.manager, "disable", logging.INFO)
        log_stages(RECEIPT)
        assert deaf.heard == [] and capsys.readouterr().err == ""
        monkeypatch.setattr(logging.root.manager, "disable", logging.NOTSET)
        log_stages(RECEIPT)
    assert len(capsys.readouterr().err.splitlines()) == 3
