"""The authors' own answers for each method of a paper: choices exactly, numbers to the table's tolerance.

``tests/reference_cases/METHOD.py`` checks the cases of a method. ``--reference FILE`` runs all cases of another file of
this structure. Without it, the file beside the project is read, else the extracts in tests/data.
"""

from __future__ import annotations

import importlib
from collections import Counter
from pathlib import Path

import pytest

from prunevid_qwen.config.method_options.sparsevlm_plus import PLUS_TABLE
from prunevid_qwen.config.schedules import TABLE
from tests.method_reference import EXTRACT, Case, cases, constant, default_source

CHECKS = {path.stem for path in (Path(__file__).parent / "reference_cases").glob("[!_]*.py")}
OUT_OF_SCOPE = {"framefusion", "dycoke_decode"}  # PAPERS.md says why
NOT_OURS_TO_COPY = {"fastv", "divprune"}  # no free licence of the code that answered: not even its answers are copied


def source_of(config: pytest.Config) -> Path:
    given: Path | None = config.getoption("reference")
    return given or default_source()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`test_case` runs over all cases that have a check."""
    if "case" in metafunc.fixturenames:
        found = [case for case in cases(source_of(metafunc.config)) if case.method in CHECKS]
        metafunc.parametrize("case", found, ids=[f"{case.method}{case.number}" for case in found])


def test_case(case: Case) -> None:
    importlib.import_module(f"tests.reference_cases.{case.method}").check(case)


def test_every_method_of_the_file_has_a_check(request: pytest.FixtureRequest) -> None:
    methods = Counter(case.method for case in cases(source_of(request.config)) if case.method not in OUT_OF_SCOPE)
    without = {method: count for method, count in methods.items() if method not in CHECKS}
    if without:
        pytest.skip(
            f"{sum(without.values())} of {sum(methods.values())} cases are of methods without a check: {without}"
        )


def test_the_tables_are_the_authors(request: pytest.FixtureRequest) -> None:
    for version, table in (("v15", TABLE), ("main", TABLE), ("plus", PLUS_TABLE)):
        budgets, kept = (
            constant(source_of(request.config), f"sparsevlm.table.{version}.{name}") for name in ("budget", "keep")
        )
        assert budgets is not None and kept is not None
        assert all(table[budget] == tuple(row) for budget, row in zip(budgets.tolist(), kept.tolist(), strict=True))
        assert version == "v15" or set(table) == set(budgets.tolist())


def test_a_clone_has_cases_of_every_method_that_may_be_copied() -> None:
    assert {case.method for case in cases(EXTRACT)} == CHECKS - NOT_OURS_TO_COPY
