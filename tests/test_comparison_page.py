"""The comparison of methods in docs/methods.md: figures of the committed results, "not run" where there is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from prunevid_qwen.contract.listing import method_rows
from prunevid_qwen.evaluation.shapes.methods import methods_called
from research.comparison import NOT_RUN, TOYS, comparison_tables, curve_of


def figures(**changed: Any) -> dict[str, Any]:
    whole = {"accuracy": 0.99}
    return {"questions": 12, "videos": 2, "unpruned": whole, "blank": whole, "cells": [], "unreachable": [], **changed}


def write(results: Path, name: str, found: Any) -> None:
    (results / name).parent.mkdir(exist_ok=True, parents=True)
    (results / name).write_text(json.dumps(found))


def row_of(results: Path, name: str, stage: str) -> list[str]:
    lines = comparison_tables(results)["methods"].splitlines()
    (line,) = [line for line in lines if line.startswith(f"| `{name}` | {stage} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_without_results_every_figure_is_not_run(tmp_path: Path) -> None:
    tables = comparison_tables(tmp_path)
    assert NOT_RUN in tables["matrix"]
    cells = row_of(tmp_path, "fastv", "inside the decoder")
    assert cells[2].startswith("[arXiv 2403.06764]") and cells[4:6] == ["no", "yes"]
    assert {part for cell in cells[6:] for part in cell.replace("<br>", " / ").split(" / ")} == {NOT_RUN}
    assert tables["methods"].count("\n| `") >= len(method_rows())


def test_figures_are_those_of_the_results(tmp_path: Path) -> None:
    cell = {
        "method": "uniform",
        "budget": 0.1,
        "difference": -0.25,
        "difference_interval": [-0.3, -0.2],
        "unreached": {},
    }
    far = [{"method": "uniform", "budget": 0.05}]
    first, second = TOYS.values()
    write(tmp_path, f"{first}/summary.json", {"figures": figures(cells=[cell], unreachable=far)})
    write(tmp_path, f"{second}/summary.json", {"figures": figures(left_out={"uniform": "why"})})
    cost = {"stage": 1, "name": "uniform", "seconds": 1.5, "share": 0.02, "pays": True, "tokens": 2048}
    dear = {**cost, "seconds": 9.0, "share": 0.08, "pays": False, "tokens": 16384}
    write(tmp_path, "choose_cost.json", {"rows": [cost, dear], "left_out": {}})
    cells = {"qwen2_5_vl": {"is": "equal"}, "llava": {"is": "refused", "why": "no"}}
    matrix = {"rows": [{"stage": 1, "name": "uniform", "families": cells, "reference": [2, 3]}]}
    write(tmp_path, "method_matrix.json", matrix)
    row = row_of(tmp_path, "uniform", "before the decoder")
    minus = "\N{MINUS SIGN}"
    assert row[6] == "1.5 s (2.0 %) / **9 s (8.0 %), does not pay**"
    assert row[7:] == [
        f"{NOT_RUN}<br>left out", f"{minus}25.0 ({minus}30.0 to {minus}20.0)<br>left out", "out of reach<br>left out",
        "2 of 3",
    ]  # fmt: skip
    (line,) = comparison_tables(tmp_path)["matrix"].splitlines()[2:]
    assert [each.strip() for each in line.strip("|").split("|")][2:] == ["=", "\N{EN DASH}"]


def test_equal_time_has_a_row_for_each_curve(tmp_path: Path) -> None:
    assert NOT_RUN in comparison_tables(tmp_path)["equal time"]
    far = {"budget": 0.5, "difference_interval": None, "unreached": {}}
    cells = [{**far, "method": name, "difference": lost} for name, lost in (("a", -0.2), ("b", -0.1))]
    cells.append({**cells[0], "budget": 0.9})
    write(
        tmp_path, f"{next(iter(TOYS.values()))}/summary.json", {"figures": figures(), "by_time": figures(cells=cells)}
    )
    table = comparison_tables(tmp_path)["equal time"].splitlines()
    minus = "\N{MINUS SIGN}"
    assert [each.strip() for each in table[0].split("|")][2:4] == [f"Lost at {n} % of the time" for n in (90, 50)]
    assert table[2] == f"| `a` | {minus}20.0<br>{NOT_RUN} | {minus}20.0<br>{NOT_RUN} |"
    assert table[3] == f"| `b` | {NOT_RUN}<br>{NOT_RUN} | {minus}10.0<br>{NOT_RUN} |"


@pytest.mark.parametrize("row", method_rows(), ids=lambda row: f"{row['stage']} {row['name']}")
def test_every_method_has_a_curve_in_the_benchmark(row: dict[str, Any]) -> None:
    if row["name"] != "oracle":  # the caller marks the tokens: an upper bound
        methods_called([curve_of(row["stage"], row["name"])])
