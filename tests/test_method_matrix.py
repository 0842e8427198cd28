"""Every method on every family, as the committed matrix of docs/methods.md says."""

from __future__ import annotations

import json

import pytest

from prunevid_qwen import check_reducer
from prunevid_qwen.reducer import reducer_class
from tests.families import FAMILIES
from tests.method_matrix import EQUAL, METHODS, RESULT, cell


@pytest.mark.nightly
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("stage", "name"), METHODS)
def test_a_method_does_as_the_oracle_or_refuses(stage: int, name: str, family: str) -> None:
    found = cell(stage, name, family)
    if RESULT.is_file():
        said = {(row["stage"], row["name"]): row for row in json.loads(RESULT.read_text(encoding="utf-8"))["rows"]}
        assert found["is"] == said[stage, name]["families"][family]["is"]


@pytest.mark.nightly
@pytest.mark.parametrize(("stage", "name"), METHODS)
def test_every_method_keeps_the_contract(stage: int, name: str) -> None:
    check_reducer(reducer_class(name, stage))


def test_a_cell_says_what_a_method_did() -> None:
    assert cell(1, "uniform", "qwen2_5_vl") == cell(2, "fastv", "llava") == {"is": EQUAL}
    refused = cell(2, "glimpse", "llava")
    assert refused["is"] == "refused" and refused["why"]
