"""Benchmark runs that several test files look at; `tests/conftest.py` makes the fixtures known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from prunevid_qwen.cli import main
from prunevid_qwen.evaluation.engine.storing import answer_files
from prunevid_qwen.evaluation.store import read_lines

ROOT = Path(__file__).resolve().parents[1]
TABLES = ("report.md", "summary.csv", "summary.json")
SMALL = ("--frames", "4", "--min_pixels", "784", "--max_pixels", "3136")
SHAPES = (
    "--protocol", "mvbench_videochat2", "--frames", "8", "--min_pixels", "784", "--max_pixels", "12544",
    "--max_new_tokens", "8", "--compare", "baseline,paper+keep_ratio=0.1,paper+selector=random+keep_ratio=0.1",
)  # fmt: skip
DOZEN = (*SHAPES[:-1], "baseline,paper+keep_ratio=0.1")
"""With `dozen`: 3 videos, 2 questions each, 2 configs."""
FEW = "paper keep_ratio=0.1"
CONFIGS = ("baseline", FEW, "paper selector=random keep_ratio=0.1")


@pytest.fixture(scope="session")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    from tests.benchmark_folders import Clips, write_all  # here: it needs pyarrow, which other tests do not

    root = tmp_path_factory.mktemp("sets ü")
    return write_all(root, Clips(root / "clips"))


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.shapes_benchmark import shapes_mvbench

    return shapes_mvbench(tmp_path_factory.mktemp("shapes"))


@pytest.fixture(scope="session")
def dozen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.shapes_benchmark import shapes_mvbench

    return shapes_mvbench(tmp_path_factory.mktemp("dozen"), videos=1, questions=2)


def run(data: Path, out: Path, *words: str, dataset: str = "mvbench", workers: int = 0) -> int:
    words = ("--dataset", dataset, "--data", str(data), "--out", str(out), "--workers", str(workers), *words)
    return main(["eval", "run", *words])


@pytest.fixture(scope="session")
def finished(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """108 answers of the bundled model."""
    out = tmp_path_factory.mktemp("finished")
    assert run(shapes, out, *SHAPES) == 0
    return out


@pytest.fixture(scope="session")
def answered(dozen: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 answers of the bundled model."""
    out = tmp_path_factory.mktemp("answered")
    assert run(dozen, out, *DOZEN) == 0
    return out


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> None:
    """No model answers in this test."""
    from tests import stub_answers

    stub_answers.install(monkeypatch)


@pytest.fixture(scope="session")
def stubbed(dozen: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same 12 answers without a model."""
    from tests import stub_answers

    out = tmp_path_factory.mktemp("stubbed")
    with pytest.MonkeyPatch.context() as patch:
        stub_answers.install(patch)
        assert run(dozen, out, *DOZEN) == 0
    return out


def lines(out: Path) -> list[dict[str, Any]]:
    return [line for path in answer_files(out) for line in read_lines(path)]


def row(out: Path, config: str = FEW, axis: str = "all") -> dict[str, Any]:
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    found: dict[str, Any] = next(r for r in summary["rows"] if (r["axis"], r["config"]) == (axis, config))
    return found


def tables(out: Path) -> list[bytes]:
    return [(out / name).read_bytes() for name in TABLES]
