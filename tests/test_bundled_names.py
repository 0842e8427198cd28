"""A bundled toy's name: one table, and everything that takes a model's path takes every name in it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from prunevid_qwen import ConfigError, PrunedVLM, get_baseline_config
from prunevid_qwen.bundled import BUNDLED, TOYS, bundled_model, is_bundled, source_of
from prunevid_qwen.cli import main
from prunevid_qwen.cli.output import Reporting
from prunevid_qwen.evaluation.engine.task_media import media_reader, media_wanted
from prunevid_qwen.evaluation.published.reproduce import check_files, depth_of
from prunevid_qwen.evaluation.shapes.methods import AccuracyRun, methods_called
from prunevid_qwen.evaluation.speed.speed_run import SpeedRun
from prunevid_qwen.evaluation.store.identity import model_fingerprint
from prunevid_qwen.loading import check_source
from prunevid_qwen.training.glimpse.base import load_base
from prunevid_qwen.training.glimpse.recipe import GlimpseRecipe
from tests.test_layers import PACKAGE, TREES

OTHER = "bundled-other"
OF_PREDICTORS = {"stage2_select/glimpse/predictor.py", "evaluation/published/reproduce.py"}


@pytest.fixture
def other(monkeypatch: pytest.MonkeyPatch) -> str:
    """A third name, for the folder of the first toy."""
    monkeypatch.setitem(TOYS, OTHER, TOYS[BUNDLED])
    return OTHER


def test_a_name_stands_for_its_folder_and_all_else_for_itself() -> None:
    assert len(set(TOYS.values())) == len(TOYS) and next(iter(TOYS)) == BUNDLED
    for name, folder in TOYS.items():
        assert is_bundled(name) and is_bundled(Path(name))
        assert Path(source_of(name)) == Path(bundled_model(name)) == PACKAGE / "bundled" / folder
        assert (Path(source_of(name)) / "README.md").is_file()
    for path in ("./bundled", "bundled/", "Bundled", "Qwen/bundled", "", "runs/model"):
        assert not is_bundled(path) and source_of(path) == path
    assert not is_bundled(object()) and not is_bundled(None)


def test_a_name_in_the_table_is_all_that_a_toy_needs(other: str) -> None:
    first = bundled_model()
    model = PrunedVLM(other, get_baseline_config(), device="cpu")
    assert model.model.dtype.itemsize == 4, "a toy is read as float32"
    assert media_wanted(other, {}) == media_wanted(first, {})
    assert media_reader(other, {}).video == media_reader(first, {}).video
    assert model_fingerprint(other, {}) == model_fingerprint(first, {})
    assert depth_of(other, {}) == depth_of(first, {})
    assert str(Path(first)) in check_files(other)
    own, theirs = (AccuracyRun(methods_called(["unpruned"]), model=each).to_dict() for each in (other, BUNDLED))
    assert own["model_sha256"] == theirs["model_sha256"] and own["model"] == other
    config = SpeedRun(model_path=other, device="cpu").config()
    assert config.to_dict() == SpeedRun(model_path=BUNDLED, device="cpu").config().to_dict()
    trained, _ = load_base(GlimpseRecipe(model_path=other, dtype="auto"), "cpu")
    assert trained.dtype.itemsize == 4


def test_who_looks_for_a_model_in_vain_is_told_every_toy(other: str) -> None:
    with pytest.raises(ConfigError) as raised:
        check_source("bundled-qwen3")
    assert all(repr(name) in str(raised.value) for name in (*TOYS, other))
    with pytest.raises(ConfigError) as raised:
        AccuracyRun(methods_called(["unpruned"]), model="elsewhere").to_dict()
    assert all(name in str(raised.value) for name in (*TOYS, other))


def test_a_command_says_that_a_toy_answers(other: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = []
    for name in (BUNDLED, other, "Qwen/Qwen3-VL-2B-Instruct"):
        with Reporting(quiet=False).running("out", name):
            pass
        said.append("toy" in capsys.readouterr().err)
    assert said == [True, True, False]


@pytest.mark.parametrize("command", ["ask", "batch", "bench accuracy", "bench speed", "reproduce fastvid"])
def test_help_names_every_toy(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command.split(), "--help-all"]) == 0
    shown = "".join(capsys.readouterr().out.split())
    assert all(name in shown for name in TOYS)


def test_nobody_compares_a_path_with_the_name_of_a_toy() -> None:
    """What did so forgot the next toy; a predictor's name is another table's."""
    wrong = []
    for path, tree in TREES.items():
        where = path.relative_to(PACKAGE).as_posix()
        for node in ast.walk(tree):
            compared = [node.left, *node.comparators] if isinstance(node, ast.Compare) else []
            named = any(isinstance(each, ast.Constant) and each.value in (*TOYS,) for each in compared)
            if named and where not in OF_PREDICTORS:
                wrong.append(f"{where}:{node.lineno}")
    assert not wrong, wrong
