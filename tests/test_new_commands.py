"""`methods`, `new-method` and `config`; words without dashes, --quiet and --out of `ask`; a folder for `batch`."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from prunevid_qwen import check_reducer
from prunevid_qwen.cli import main
from prunevid_qwen.config import PruneVidConfig, get_config
from prunevid_qwen.config.option_classes import classes_of
from prunevid_qwen.config.plugins import load_plugin
from prunevid_qwen.contract.listing import method_rows
from prunevid_qwen.reducer import made_by, reducer_class
from tests.stub_model import StubModel, ask, clip, model

__all__ = ["clip", "model"]
CLIPS = Path(__file__).resolve().parents[1] / "prunevid_qwen" / "bundled" / "clips"


# ---- methods


def test_the_table_of_methods_says_what_the_registry_says() -> None:
    rows = {(row["stage"], row["name"]): row for row in method_rows()}
    assert set(rows) == {(1, each) for each in classes_of("merger")} | {(2, each) for each in classes_of("selector")}
    assert {row["name"] for row in rows.values() if row["trained"]} == {"glimpse"}
    assert rows[2, "prunevid"]["paper"] == rows[1, "prunevid"]["paper"] == "arXiv 2412.16117"
    without = {row["name"] for row in rows.values() if not row["paper"]}
    assert without == {"pool", "uniform", "random", "oracle", "distinct"}
    assert {row["name"] for row in rows.values() if row["ours"]} == {"distinct"}
    for (stage, name), row in rows.items():
        own = classes_of("merger" if stage == 1 else "selector")[name]
        assert row["budget"].partition(" ")[0] in row["options"], name
        assert bool(row["needs"]) == (made_by(own(), stage).needs != type(made_by(own(), stage).needs)()), name


def test_methods_of_others_stand_in_the_table(
    registry: None, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    spread = str(Path(__file__).parent / "plugins" / "spread.py")
    assert main(["methods", "--plugin", spread, "--json", "--out", str(tmp_path / "m.json")]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said == json.loads((tmp_path / "m.json").read_text())
    (row,) = [each for each in said["methods"] if each["name"] == "spread"]
    assert (
        row["stage"] == 2 and row["budget"] == "keep_ratio" and row["options"] == ["keep_ratio", "distance", "layers"]
    )


def test_the_table_is_as_wide_as_the_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert main(["methods"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 70  # the last line is a sentence


@pytest.mark.parametrize(("words", "stage"), [([], 2), (["--merger"], 1)])
def test_a_new_method_keeps_the_contract_and_answers(
    words: list[str], stage: int, registry: None, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["new-method", "my_own", *words]) == 0 and Path("my_own.py").is_file()
    load_plugin("my_own.py")
    method = reducer_class("my_own", stage)
    check_reducer(method)
    part = "merger" if stage == 1 else "selector"
    capsys.readouterr()
    share = "cluster_ratio" if stage == 1 else "keep_ratio"
    assert main(["demo", f"--{part}", "my_own", f"--{part}.{share}", "0.25", "--max_new_tokens", "1", "--json"]) == 0
    stats = json.loads(capsys.readouterr().out)["stats"]
    (step,) = [each for each in stats["steps"] if each["name"] == "my_own"]
    assert step["tokens_out"] == int(step["tokens_in"] * 0.25)
    before = Path("my_own.py").read_text()
    for name in ("my_own", "My", "2nd", "class", "fastv" if stage == 2 else "pool"):
        assert main(["new-method", name, *words]) == 2
    assert Path("my_own.py").read_text() == before
    Path("my_own.py").write_text("mine")
    assert main(["new-method", "own_two", *words, "--out", "my_own.py"]) == 2
    assert main(["new-method", "own_two", *words, "--out", "my_own.py", "--force"]) == 0
    assert "own_two" in Path("my_own.py").read_text()
    capsys.readouterr()
    assert (
        main(["new-method", "own_three", *words, "--out", "some where/own_three.py"]) == 0
    )  # a folder that is not there
    check = capsys.readouterr().out.splitlines()[-1].removeprefix("check it: ")
    assert shlex.split(check)[0] == "PYTHONPATH=some where", "else Python does not find the module"


# ---- config


def test_a_config_is_saved_shown_and_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.json"
    assert main(["config", "save", "fastv", "--keep_ratio", "0.2", "--out", str(path)]) == 0
    assert PruneVidConfig.from_json(path) == get_config("fastv").replace(keep_ratio=0.2)
    assert main(["config", "save", "paper", "--out", str(path)]) == 2, "it is there"
    assert main(["config", "save", "paper", "--out", str(path), "--force"]) == 0
    capsys.readouterr()
    assert main(["config", "show", "recommended", "--merger.space_reach", "0.7", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert PruneVidConfig.from_dict(said) == get_config("recommended").replace(**{"merger.space_reach": 0.7})
    assert main(["config", "show", "recommended"]) == 0
    assert "selector.layers 0.5" in capsys.readouterr().out.splitlines()
    assert main(["config", "diff", "paper", str(path)]) == 0 and "the same" in capsys.readouterr().out
    assert main(["config", "diff", "paper", "aggressive", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["differ"]
    assert found == {"merger.cluster_ratio": [0.5, 0.25], "selector.keep_ratio": [0.4, 0.2]}
    assert main(["config", "show", "papr"]) == 2 and "paper" in capsys.readouterr().err


# ---- ask


@pytest.mark.parametrize(
    ("words", "videos", "images", "question"),
    [
        (["CLIP", "What?"], 1, 0, "What?"),
        (["What?", "CLIP", "CLIP"], 2, 0, "What?"),
        (["CLIP", "-q", "What?"], 1, 0, "What?"),
        (["CLIP", "a.jpg", "What?", "--max_new_tokens", "3"], 1, 1, "What?"),
        (["--video_path", "CLIP", "What?"], 1, 0, "What?"),
    ],
)
def test_files_and_the_question_need_no_option(
    words: list[str], videos: int, images: int, question: str, clip: str, model: list[StubModel], monkeypatch: Any
) -> None:
    monkeypatch.chdir(Path(clip).parent)
    Path("a.jpg").write_bytes(b"stub")
    assert ask(*(clip if word == "CLIP" else word for word in words), "-m", "folder") == 0
    asked = model[-1].asked[-1]
    assert asked["question"] == question and len(asked["images"] or ()) == images
    assert asked["video_path"] == (clip if videos == 1 else [clip] * videos)


@pytest.mark.parametrize("words", [["What?", "Why?"], ["CLIP", "-q", "What?", "Why?"], ["no_such_file", "What?"]])
def test_two_questions_or_a_name_of_no_file_are_refused(words: list[str], clip: str, capsys: Any) -> None:
    assert ask(*(clip if word == "CLIP" else word for word in words)) == 2
    assert "is no file here" in capsys.readouterr().err


def test_a_file_that_is_not_there_is_missing_and_no_question(capsys: Any) -> None:
    assert ask("none.mp4", "What?") == 4 and "none.mp4" in capsys.readouterr().err


def test_who_answers_is_said_before_the_answer(clip: str, model: list[StubModel], capsys: Any) -> None:
    for words, named in (([], "toy"), (["-m", "some/model"], "some/model")):
        assert ask(clip, "What?", *words) == 0
        said = capsys.readouterr().out
        assert said.index(named) < said.index("Answer:") and ("toy" in said) == (named == "toy")
    assert ask(clip, "What?", "--json") == 0 and "toy" in capsys.readouterr().err


def test_quiet_is_the_answer_alone(clip: str, model: list[StubModel], capsys: Any) -> None:
    assert ask(clip, "What?", "--quiet") == 0
    said = capsys.readouterr()
    assert said.out == "red\n" and said.err == "a library talks\n"


def test_an_answer_is_written_to_a_file_too(clip: str, model: list[StubModel], tmp_path: Path, capsys: Any) -> None:
    assert ask(clip, "What?", "--out", str(tmp_path / "a.json")) == 0
    assert "Answer: red" in capsys.readouterr().out
    assert json.loads((tmp_path / "a.json").read_text())["answer"] == "red"
    assert ask(clip, "What?", "--out", str(tmp_path / "none" / "a.json")) == 2, "before the model is loaded"
    assert len(model) == 1


# ---- batch


def test_one_question_is_asked_about_each_file_of_a_folder(tmp_path: Path, capsys: Any) -> None:
    shutil.copyfile(CLIPS / "late_square.mp4", tmp_path / "b.mp4")
    shutil.copyfile(CLIPS / "all_move.gif", tmp_path / "a.gif")
    (tmp_path / "notes.txt").write_text("no medium")
    words = ["batch", str(tmp_path), "--out", str(tmp_path / "answers.jsonl"), "--max_new_tokens", "3"]
    assert main(words) == 2 and "--question" in capsys.readouterr().err
    assert main([*words, "--question", "How many objects are there?", "--dry_run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["questions"] == 2 and not (tmp_path / "answers.jsonl").exists()
    assert main([*words, "--question", "How many objects are there?", "--workers", "0"]) == 0
    lines = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [Path(line["media"][0]["source"]).name for line in lines] == ["a.gif", "b.mp4"]
    assert all(line["answer"] for line in lines)


def test_questions_of_a_file_are_asked_about_each(tmp_path: Path, capsys: Any) -> None:
    shutil.copyfile(CLIPS / "late_square.mp4", tmp_path / "b.mp4")
    (tmp_path / "q.txt").write_text("What?\n\nWhy?\n")
    words = ["--out", str(tmp_path / "a.jsonl"), "--dry_run", "--json", "--question_file", str(tmp_path / "q.txt")]
    assert main(["batch", str(tmp_path), *words]) == 0
    assert json.loads(capsys.readouterr().out)["questions"] == 2
    (tmp_path / "q.jsonl").write_text('{"video": "b.mp4", "question": "?"}\n')
    assert main(["batch", str(tmp_path / "q.jsonl"), *words]) == 2, "a file of questions has its own"


# ---- bench


def test_a_plug_ins_method_is_measured_beside_the_others(registry: None, tmp_path: Path, capsys: Any) -> None:
    spread = str(Path(__file__).parent / "plugins" / "spread.py")
    words = ["bench", "accuracy", "--out", str(tmp_path / "x"), "--dry_run", "--json"]
    assert main([*words, "--plugin", spread, "--methods", "spread,random"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert {"unpruned", "random", "spread"} == {each["name"] for each in said["methods"]}
    assert any("spread" in name and name.startswith("plugin") for name in said)
    assert main([*words, "--methods", "sprad"]) == 2
