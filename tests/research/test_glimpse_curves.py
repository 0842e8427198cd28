"""The glimpse beside attention, controls and true boxes: a small run from questions to tables and plots."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.evaluation.shapes.accuracy import accuracy_run
from prunevid_qwen.evaluation.shapes.accuracy_summary import CellName, read_answers, read_run
from research import glimpse, glimpse_page, glimpse_plots
from research.glimpse import SELECTORS, glimpse_methods, glimpse_run, summarise_glimpse
from research.shapes_run import write_summary

pytestmark = pytest.mark.nightly

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "eval" / "results"


def test_all_points_drop_after_one_layer_and_nothing_is_merged() -> None:
    for method in glimpse_methods(2):
        config = PruneVidConfig().replace(**method.options)
        assert config.pruning_layer == 2
        assert not config.enable_stage1
        assert method.levers == ()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two videos, one share, one threshold."""
    folder = tmp_path_factory.mktemp("glimpse") / "run"
    patch = pytest.MonkeyPatch()
    for module in (glimpse, glimpse_page, glimpse_plots):
        patch.setattr(module, "SHARES", (0.25,))
        patch.setattr(module, "THRESHOLDS", (0.5,))
    try:
        accuracy_run(folder, glimpse_run(2, videos=2), 1, False, lambda *_: None, "a test")
        summary = write_summary(folder, summarise_glimpse(read_answers(folder), read_run(folder)))
        written = json.loads(summary.read_text(encoding="utf-8"))
        glimpse_plots.draw_glimpse(written, folder)
        (folder / "results").mkdir()
        folder.rename(folder.parent / "glimpse")
        tables = glimpse_page.glimpse_tables(folder.parent.parent / folder.parent.name)
        (folder.parent / "tables.json").write_text(json.dumps(tables))
    finally:
        patch.undo()
    return folder.parent


def test_every_figure_is_that_of_the_answers(small: Path) -> None:
    answers = read_answers(small / "glimpse")
    figures = json.loads((small / "glimpse" / "summary.json").read_text(encoding="utf-8"))["figures"]

    def right(name: str) -> np.ndarray:
        return np.array([each.correct for each in answers[CellName(name, None)].values()])

    unpruned = right("unpruned")
    assert figures["unpruned"]["value"] == pytest.approx(unpruned.mean(), abs=1e-6)
    for selector in SELECTORS:
        ours, row = right(f"{selector} 25%"), figures["methods"][f"{selector} 25%"]
        assert row["accuracy"]["value"] == pytest.approx(ours.mean(), abs=1e-6)
        assert row["lost"]["value"] == pytest.approx((ours - unpruned).mean(), abs=1e-6)
        assert row["kept"] == pytest.approx(0.25, abs=0.01)
    assert figures["methods"]["oracle above 0.5"]["evidence_kept"] == 1.0
    own = answers[CellName("glimpse above 0.5", None)].values()
    adaptive = figures["adaptive"]
    assert sum(row["n"] for name, row in adaptive.items() if " " not in name) == len(own)
    counts = [each.kept for each in own if each.wording[0] == "count"]
    assert adaptive["count"]["mean"] == pytest.approx(np.mean(counts), abs=1e-5)
    for other, row in figures["glimpse_against"]["25%"].items():
        assert row["value"] == pytest.approx((right("glimpse 25%") - right(f"{other} 25%")).mean(), abs=1e-6)


def test_plots_and_tables(small: Path) -> None:
    names = {path.name for path in (small / "glimpse").glob("*.svg")}
    assert names == {"accuracy_light.svg", "accuracy_dark.svg", "adaptive_light.svg", "adaptive_dark.svg"}
    tables = json.loads((small / "tables.json").read_text())
    assert tables["glimpse lost"].splitlines()[0] == "| points lost at | 25 % |"
    assert len(tables["glimpse lost"].splitlines()) == 2 + len(SELECTORS)
