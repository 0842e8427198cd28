"""docs/evaluation.md is true: its commands exist, and its tables say what the code says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from prunevid_qwen.cli.app import OLD_OPTIONS, app
from prunevid_qwen.evaluation.datasets import names
from prunevid_qwen.evaluation.protocol.harness_scorers import SCORERS
from prunevid_qwen.evaluation.protocol.protocol import presets
from prunevid_qwen.evaluation.protocol.scorers import AnswerReading, Output
from prunevid_qwen.evaluation.published.estimate import cost_of, gigabytes
from tests.published_rows import TABLES

TEXT = (Path(__file__).resolve().parents[1] / "docs" / "evaluation.md").read_text(encoding="utf-8")
COMMANDS = [
    line.partition("#")[0]
    for block in re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
]


def table(head: str) -> list[list[str]]:
    """Cells of the rows under a head that begins so, the head first."""
    lines = TEXT[TEXT.index(f"| {head} |") :].partition("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if not line.startswith("|---")]


def test_options_of_commands_exist() -> None:
    asked = [command.split() for command in COMMANDS if command.startswith("prunevid ")]
    assert len(asked) > 8
    for _, *words in asked:
        path = words[: 2 if words[0] in ("eval", "reproduce") else 1]
        known = CliRunner().invoke(app, [*path, "--help-all"], env={"COLUMNS": "200"}).output
        for option in (word for word in words if word.startswith("--") and word != "--help"):
            assert f"{option} " in known or option in OLD_OPTIONS.get(tuple(path), {}), (path, option)


def test_every_benchmark_is_in_the_table() -> None:
    assert {row[0].strip("`") for row in table("name")[1:]} == set(names()), "a row for each under Where the data lies"


def test_every_protocol_is_in_the_table() -> None:
    assert {name for row in table("Protocol")[1:] for name in re.findall(r"`(\w+)`", row[0])} == set(presets())


def said(reading: AnswerReading, ours: bool) -> set[str]:
    if reading.then == "left_out":
        return {"not counted"}
    if len(reading.accepted) > 1:
        return {"**right**"}
    return {reading.accepted} if reading.accepted else {"unparsed" if ours else "wrong"}


@pytest.mark.parametrize("row", table("Answer")[1:], ids=lambda row: row[0])
def test_scorers_say_what_the_table_says(row: list[str]) -> None:
    options = ("opens the window", "runs away", "closes the door", "sits down")
    scorers = ("ours", "mvbench", "pllava", "lmms_mvbench", "videomme", "lmms_videomme")
    for answer in re.findall(r"`([^`]+)`", row[0]) or [""]:
        for scorer, cell in zip(scorers, row[1:], strict=True):
            reading = SCORERS[scorer](Output(answer, options))
            assert said(reading, scorer == "ours") == {cell}, (answer, scorer)


def test_estimates_and_baselines_are_those_of_the_published_tables() -> None:
    rows = {row[0].strip("`"): row for row in table("Name")[1:]}
    assert set(rows) == set(TABLES)
    for name, row in rows.items():
        costs = [cost_of(setting) for setting in TABLES[name].settings]
        hours = [round(cost.hours) for cost in costs]
        told = " + ".join(map(str, hours)) if min(hours) else str(round(sum(cost.hours for cost in costs)))
        assert row[5] == f"{told}; {gigabytes(max(cost.gigabytes for cost in costs)).removesuffix(' GB')}"
        base = next(setting for setting in TABLES[name].settings if not setting.timed).rows[0].theirs
        for part, score in base.items():
            assert "/" in part or f"{score:.1f}" in row[4], part
