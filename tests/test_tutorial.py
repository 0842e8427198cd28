"""The tutorial runs from its first cell to its last, and what it says of its results is so."""

from __future__ import annotations

import ast
import json
import logging
import re
from typing import Any

import pytest
import torch

from tools.run_tutorial import NOTEBOOK, run


@pytest.fixture
def cells() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return found


def test_the_notebook_is_whole_and_holds_no_machine_of_ours(cells: list[dict[str, Any]]) -> None:
    read = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert (read["nbformat"], read["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in cells}) == len(cells)
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    for number, cell in enumerate(code, 1):
        ast.parse("".join(cell["source"]))
        assert cell["execution_count"] == number, "python tools/run_tutorial.py stores what the cells print"
        assert all(each["output_type"] in ("stream", "execute_result") for each in cell["outputs"])
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert not re.search(r"/(home|work|root|tmp|Users)/", text) and len(text) < 400_000


@pytest.mark.nightly
def test_it_runs_and_what_it_says_is_so(cells: list[dict[str, Any]], registry: None) -> None:
    log = logging.getLogger("prunevid_qwen")
    threads, level = torch.get_num_threads(), log.level
    try:
        names = run(cells)
    finally:
        torch.set_num_threads(threads)
        log.setLevel(level)  # the first cell quiets it, and other tests of this process read the log
    assert names["answer"]["answer"] == "green"
    compared = names["compared"]
    assert set(compared) == {"unpruned", "prunevid", "stage 2 fastv", "recommended", "random", "uniform"}
    for name, (share, _) in compared.items():
        assert name == "unpruned" or share == pytest.approx(names["BUDGET"], rel=0.1), name  # equal cost
    assert compared["recommended"][1] >= max(compared["random"][1], compared["uniform"][1])
    first, *_, last = names["overlaps"]
    assert 0 < first < last  # it learns, on videos that it is not trained on
    assert names["left"] < 128 and names["found"]["answer"]
    assert names["found"]["stats"]["steps"][-1]["tokens_out"] == 32  # a quarter of 128: the method of 20 lines
    outputs = [each for cell in cells for each in cell.get("outputs", ())]
    assert any("image/png" in each.get("data", {}) for each in outputs)
