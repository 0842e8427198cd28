"""Several configs in one run of lmms-eval: a stand-in (tests/lmms_stub) reads the file that it is given."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prunevid_qwen.cli import main
from prunevid_qwen.config import get_config
from prunevid_qwen.config.option_classes import STAGES, classes_of
from prunevid_qwen.config.presets import PRESETS
from prunevid_qwen.errors import ConfigError, SetupError
from prunevid_qwen.evaluation.lmms_plugin.requests import read_arguments
from prunevid_qwen.evaluation.lmms_plugin.several import LmmsRun, command_of
from prunevid_qwen.evaluation.published.table import published_table
from tests.published_rows import QWEN

METHODS = sorted({name for part in STAGES for name in classes_of(part)})
NAMED = tuple((name, get_config(name)) for name in ("baseline", "visionzip", "recommended"))

Calls = Callable[[], list[list[str]]]


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Stand in for lmms-eval; what is returned tells the model arguments of each of its calls."""
    stub = Path(shutil.copytree(Path(__file__).with_name("lmms_stub"), tmp_path / "stub"))
    monkeypatch.syspath_prepend(stub)
    monkeypatch.setenv("PYTHONPATH", str(stub))
    log = stub / "lmms_eval" / "calls.txt"
    return lambda: [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def arguments_of(entry: dict[str, Any]) -> dict[str, Any]:
    """Split model arguments as lmms-eval does: at commas outside quotes; what looks like a number becomes one."""
    parts, quoted = [""], False
    for char in entry["model_args"]:
        quoted ^= char == '"'
        if char == "," and not quoted:
            parts.append("")
        else:
            parts[-1] += char
    found: dict[str, Any] = {}
    for name, value in (part.split("=", 1) for part in parts):
        try:
            found[name] = {"true": True, "false": False}.get(value.lower()) or float(value)
        except ValueError:
            found[name] = value
    return found


# ---- names


def test_a_methods_name_is_a_config_of_it_alone() -> None:
    for part in STAGES:
        other = next(each for each in STAGES if each != part)
        for name, options in classes_of(part).items():
            assert getattr(get_config(f"{part}.{name}"), part) == options()
            assert getattr(get_config(f"{part}.{name}"), other) is None
    pair, door = get_config("vscan"), get_config("divprune")
    assert (type(pair.merger), type(pair.selector)) == (classes_of("merger")["vscan"], classes_of("selector")["vscan"])
    assert (type(door.merger), door.selector) == (classes_of("merger")["divprune"], None)
    assert get_config("prunevid") == get_config("paper")
    for wrong in ("merger.dart", "stage.vscan", "visionzp", "merger."):
        with pytest.raises(ConfigError):
            get_config(wrong)


@pytest.mark.parametrize("name", [*PRESETS, *METHODS])
def test_lmms_evals_plug_in_takes_every_method_and_preset_by_name(name: str) -> None:
    assert read_arguments({"config": name}).config == get_config(name)


# ---- the file


def test_an_entry_carries_a_whole_config_and_every_argument(tmp_path: Path) -> None:
    configs = tuple((name, get_config(name)) for name in ("holitom", "sparsevlm_plus", "glimpse"))
    given = {"revision": "1e5", "max_pixels": 1000000, "device": None, "local_files_only": True}
    run = LmmsRun(("gqa", "pope"), configs, "org/a", given, limit=7)
    path, left = run.write(tmp_path / "runs ü")
    entries = json.loads(path.read_text())
    assert left == [name for name, _ in configs] and len(entries) == 3
    for entry, (_, config) in zip(entries, configs, strict=True):
        found = read_arguments(arguments_of(entry))
        assert found.config == config and found.pretrained == "org/a" and found.protocol.max_pixels == 1000000
        assert found.loading == {"revision": "1e5", "local_files_only": True}
        assert (entry["tasks"], entry["limit"], entry["model"]) == ("gqa,pope", 7, "prunevid_qwen")
        assert entry["verbosity"] == "DEBUG" and entry["use_cache"] and entry["env"]["LMMS_CACHE_RUN_ID"]
    assert len({entry["model_args"] for entry in entries}) == 3  # all that lmms-eval's cache knows of a model
    other = LmmsRun(("gqa",), (("holitom", configs[0][1].replace(beta=0.5)),))
    assert other.entries(tmp_path)["holitom"]["model_args"] != run.entries(tmp_path)["holitom"]["model_args"]


def test_what_cannot_be_handed_over_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        LmmsRun((), NAMED)
    with pytest.raises(ConfigError):
        LmmsRun(("gqa",), NAMED, arguments={"keep_ration": 0.5})
    with pytest.raises(ConfigError):
        LmmsRun(("gqa",), NAMED).entries(tmp_path / "a,b")
    with pytest.raises(ConfigError):
        LmmsRun(("gqa",), NAMED, arguments={"system": 'say "yes"'}).entries(tmp_path)


# ---- the run


def test_a_run_asks_what_has_no_score_yet(tmp_path: Path, calls: Calls) -> None:
    run = LmmsRun(("gqa", "mme"), NAMED[:2])
    run.start(tmp_path / "out")
    assert [len(each) for each in calls()] == [2]
    scores = run.scores(tmp_path / "out")
    assert scores["baseline"] == {
        "gqa": {"exact_match": 0.5}, "mme": {"mme_perception_score": 0.5, "mme_cognition_score": 0.5},
    }  # fmt: skip
    assert scores["visionzip"]["gqa"] == {"exact_match": 0.4}
    run.start(tmp_path / "out")
    assert len(calls()) == 1
    more = LmmsRun(("gqa", "mme"), NAMED)
    more.start(tmp_path / "out")
    assert [len(each) for each in calls()] == [2, 1] and len(more.scores(tmp_path / "out")) == 3
    for changed in (
        LmmsRun(("gqa", "pope"), NAMED),
        LmmsRun(("gqa",), NAMED, limit=3),
        LmmsRun(("gqa",), NAMED, "a/b"),
    ):
        assert set(changed.write(tmp_path / "out")[1]) == {"baseline", "visionzip", "recommended"}
    more.start(tmp_path / "out", restart=True)
    assert [len(each) for each in calls()] == [2, 1, 3]


def test_a_run_that_left_no_score_is_an_error(
    tmp_path: Path, calls: Calls, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SetupError, match="baseline, visionzip"):
        LmmsRun(("broken",), NAMED[:2]).start(tmp_path / "out")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(SetupError, match=r"prunevid_qwen\[lmms\]"):
        LmmsRun(("gqa",), NAMED).start(tmp_path / "out")
    assert len(calls()) == 1


def test_the_command_lays_configs_side_by_side(
    registry: None, tmp_path: Path, calls: Calls, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["eval", "lmms", "--tasks", "gqa,pope", "--configs", "vscan,cdpruner+cluster_ratio=0.2"]
    words += ["--limit", "2", "--max_pixels", "401408", "--out", str(tmp_path / "out"), "--json"]
    assert main([*words, "--dry_run"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert told["configs"] == ["baseline", "vscan", "cdpruner cluster_ratio=0.2"] and not calls()
    assert told["command"] == command_of(Path(told["file"]))
    assert main(words) == 0
    scores = json.loads(capfd.readouterr().out)
    assert scores["vscan"]["pope"] == {"pope_accuracy": 0.4, "pope_f1_score": 0.4}
    assert all("max_pixels=401408" in each for each in calls()[0])
    assert main([*words[:-1], "--no_baseline"]) == 0 and len(calls()) == 1
    assert "vscan" in capfd.readouterr().out
    plugin = ["--plugin", str(Path(__file__).parent / "plugins" / "spread.py")]
    assert main([*words, *plugin]) == ConfigError.exit_code
    assert main([*words, "--configs", "visionzp"]) == ConfigError.exit_code


# ---- published tables


def reproduce(*words: str) -> int:
    return main(["reproduce", *words])


def test_a_table_through_lmms_eval_is_run_row_by_row(
    tmp_path: Path, calls: Calls, capfd: pytest.CaptureFixture[str]
) -> None:
    out, setting = tmp_path / "out", published_table("llava15").settings[0]
    assert reproduce("llava15", "--page_only", "--out", str(out)) == 0
    assert "not run" in (out / "lmms-eval" / "reproduction.md").read_text()
    capfd.readouterr()
    assert reproduce("llava15", "--dry_run", "--out", str(out), "--json") == 0
    told = json.loads(capfd.readouterr().out)["lmms-eval"]
    ours = [row.name for row in setting.rows if row.ours is not None]
    assert told["configs"] == ours and len(told["tasks"]) == 6 and "hours of one A100" in told["cost"][0]
    assert all(" images x " in each for each in told["cost"][1:]), "no task of this table has videos"
    entries = json.loads(Path(told["file"]).read_text())
    assert [read_arguments(arguments_of(each)).config for each in entries] == [
        row.ours.config(QWEN) for row in setting.rows if row.ours
    ]
    assert not calls()
    assert reproduce("llava15", "--out", str(out), "--only", "mme", "--only", "pope") == 0
    assert [len(each) for each in calls()] == [len(ours)]
    found = json.loads((out / "lmms-eval" / "reproduction.json").read_text())
    assert found["deviations"] == []
    states = {each["name"]: each["state"] for each in found["asked"]}
    assert states == {name: "scored" if name in ("mme", "pope") else "not run" for name in states}
    rows = {each["name"]: {row["row"]: row for row in each["rows"]} for each in found["asked"]}
    zipped = rows["pope"]["VisionZip 64"]
    assert zipped["published"] == {"score": 77.0, "baseline": 85.9, "difference": -8.9}
    assert (zipped["ours"], zipped["difference"]) == (pytest.approx(40), pytest.approx(-10))
    assert rows["mme"]["baseline"]["ours"] == pytest.approx(1.0)  # 0.5 and 0.5, in its own points
    page = (out / "lmms-eval" / "reproduction.md").read_text()
    assert "| VisionZip 64 | 77.0 | -8.9 | 40.0 | -10.0 | 9 of 9 | " in page
    assert "| SparseVLM+ 64 |  |  | 40.0 | -10.0 | " in page


def test_deviations_of_a_run_through_lmms_eval_are_named(tmp_path: Path, calls: Calls) -> None:
    words = ("llava15_lmms", "--out", str(tmp_path), "--only", "gqa", "--limit", "2", "--max_pixels", "401408")
    assert reproduce(*words, "--model_path", "bundled") == 0
    found = json.loads((tmp_path / "lmms-eval" / "reproduction.json").read_text())["deviations"]
    assert found == [
        "model: bundled, not llava-hf/llava-1.5-7b-hf",
        "the first 2 documents of each task",
        "max_pixels: 401408",
    ]
    assert "deviates" in (tmp_path / "lmms-eval" / "reproduction.md").read_text()


def test_options_that_lmms_eval_would_not_heed_are_refused(tmp_path: Path, calls: Calls) -> None:
    for words in (("--data", f"gqa={tmp_path}"), ("--shard", "0/2"), ("--engine", "ray"), ("--workers", "1"),
                  ("--new_tokens", "3"), ("--only", "vqa"), ("--model_path", "/nowhere/model")):  # fmt: skip
        assert reproduce("llava15", "--out", str(tmp_path / "out"), *words) == ConfigError.exit_code, words
    assert not calls()
