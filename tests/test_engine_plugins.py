"""A method of a plug-in answers in every process of a run, and its code is a part of which run it is."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prunevid_qwen import ConfigError
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.config.option_classes import options_class
from prunevid_qwen.config.plugins import load_plugin
from prunevid_qwen.evaluation.engine.local import here
from prunevid_qwen.evaluation.shapes.methods import AccuracyRun
from prunevid_qwen.evaluation.store import read_lines
from prunevid_qwen.evaluation.tasks.batch_questions import questions_for_folder
from prunevid_qwen.evaluation.tasks.runs import BatchRun, answer_batch

SPREAD = Path(__file__).parent / "plugins" / "spread.py"
CLIP = Path(__file__).resolve().parents[1] / "prunevid_qwen" / "bundled" / "clips" / "late_square.mp4"


@pytest.fixture
def run(registry: None, tmp_path: Path) -> BatchRun:
    """A question under a selector that a copy of the plug-in brings."""
    (tmp_path / "clips").mkdir()
    shutil.copyfile(CLIP, tmp_path / "clips" / CLIP.name)
    shutil.copyfile(SPREAD, tmp_path / "spread.py")
    load_plugin(str(tmp_path / "spread.py"))
    config = PruneVidConfig(selector=options_class("selector", "spread")(keep_ratio=0.25))
    questions = tuple(questions_for_folder(tmp_path / "clips", ["What color is the last object?"]))
    return BatchRun(questions, ("spread", config), max_new_tokens=4, plugins=(str(tmp_path / "spread.py"),))


def answer(run: BatchRun, out: Path, engine: Any) -> dict[str, Any]:
    assert answer_batch(out, run, engine, "cpu")["failed"] == 0
    (line,) = read_lines(out)
    return {**line, "seconds": None}


def test_processes_that_read_load_the_plug_in_first(run: BatchRun, stub: None, tmp_path: Path) -> None:
    assert answer(run, tmp_path / "a.jsonl", here(1)) == answer(run, tmp_path / "b.jsonl", here(0))


def test_a_plug_in_is_part_of_a_run_by_its_code_where_one_is_given(run: BatchRun, stub: None, tmp_path: Path) -> None:
    out, source = tmp_path / "a.jsonl", tmp_path / "spread.py"
    first = answer(run, out, here(0))
    assert {name for name in run.options("cpu") if name.startswith("plugin")} == {"plugin: spread"}
    assert not any(name.startswith("plugin") for name in replace(run, plugins=()).options("cpu"))
    other = tmp_path / "moved" / source.name
    other.parent.mkdir()
    shutil.copyfile(source, other)
    assert answer(replace(run, plugins=(str(other),)), out, here(0)) == first  # the same code at another place
    source.write_text(source.read_text() + "# changed\n")
    with pytest.raises(ConfigError, match="plugin: spread was"):
        answer(run, out, here(0))
    with pytest.raises(ConfigError, match="plugin: spread was"):
        answer(replace(run, plugins=()), out, here(0))
    shapes = AccuracyRun((), plugins=(str(source),))
    assert set(shapes.to_dict()) - set(replace(shapes, plugins=()).to_dict()) == {"plugin: spread"}


@pytest.mark.nightly
def test_answers_of_a_plug_in_are_the_same_on_ray(run: BatchRun, tmp_path: Path, monkeypatch: Any) -> None:
    ray = pytest.importorskip("ray", reason="the Ray engine needs the extra [ray]")
    from prunevid_qwen.evaluation.engine.ray_data import run_on_ray

    own = answer(run, tmp_path / "here.jsonl", here(0))
    monkeypatch.chdir(tmp_path)  # workers have working directories of their own
    relative = replace(run, plugins=("spread.py",))
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        there = answer(relative, tmp_path / "ray.jsonl", run_on_ray)
    finally:
        ray.shutdown()
    assert json.loads(json.dumps(there)) == own
    assert own["tokens"]["after_stage2"] == max(1, int(own["tokens"]["after_stage1"] * 0.25))
