"""Folders of every benchmark, and an empty hub cache, for the tests that read and check them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from prunevid_qwen.evaluation.datasets import FolderReport, check, read_dataset

if TYPE_CHECKING:
    from tests.benchmark_folders import Clips  # writes parquet, which a machine lent for a check may not have


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Clips:
    from tests.benchmark_folders import Clips

    return Clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, clips: Clips) -> dict[str, Path]:
    """Every benchmark, to be read and not changed."""
    from tests import benchmark_folders as folders

    return folders.write_all(tmp_path_factory.mktemp("benchmarks"), clips)


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This machine's cache of downloads is not looked into."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    return tmp_path / "home"


def look(root: Path, decode: bool = False, name: str = "mvbench") -> FolderReport:
    return check(read_dataset(name, root), decode)


def asking(root: Path, task: str, records: list[dict[str, Any]]) -> Path:
    """A folder with that task alone."""
    from tests.benchmark_folders import write_json

    write_json(root / "json" / f"{task}.json", records)
    (root / "video").mkdir(exist_ok=True)
    return root


def of_media(report: FolderReport) -> list[tuple[str, str]]:
    """Kind and name of what is wrong, task files left out."""
    return [(p.kind, Path(p.path).name) for p in report.problems if not p.path.endswith(".json")]
