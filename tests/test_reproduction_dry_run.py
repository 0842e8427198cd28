"""``prunevid reproduce NAME``: what stops it before a model is loaded, and what a dry run says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from prunevid_qwen import PruneVidQwen25VL
from prunevid_qwen.errors import ConfigError, UnsupportedError
from prunevid_qwen.evaluation.published import reproduce
from tests.reproduction_data import call, prunevid, write_data
from tests.stock_folders import save_folder


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("reproduction ü"))


def test_a_missing_data_set_is_named_with_what_to_do(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(root, "flashvid", ("mvbench", "videomme")) == 2
    said = capsys.readouterr().err
    assert "needs the data of egoschema, longvideobench" in said and "--data egoschema=FOLDER" in said
    assert call(root, "fastvid", ("mvbench",)) == 2
    assert "got 'mvbench'; the data sets of fastvid are videomme" in capsys.readouterr().err
    assert call(root, "fastvid", ("videomme",), "--only", "mvbench") == 2
    assert "got 'mvbench'; the data sets of fastvid are videomme" in capsys.readouterr().err
    assert prunevid("flashvid", "--data", "videomme") == 2
    assert "--data is NAME=FOLDER" in capsys.readouterr().err
    assert prunevid("fastvid", "--data", f"videomme={root / 'nowhere'}", "--model_path", "bundled") == 4
    assert "nowhere is to be the folder of Video-MME" in " ".join(capsys.readouterr().err.split())


def test_a_dry_run_stops_before_the_model(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PruneVidQwen25VL, "from_pretrained", None)
    fitted: list[tuple[str, int]] = []
    plan = reproduce.compile_plan
    monkeypatch.setattr(
        reproduce,
        "compile_plan",
        lambda config, layers: (fitted.append((config.selector, layers)), plan(config, layers)),
    )
    sets, out = ("mvbench", "videomme", "egoschema"), ("--out", str(tmp_path / "out"))
    assert call(root, "prunevid_table6", sets, "--dry-run", *out, "--frames", "8", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert list(told) == ["16frames", "768frames"]
    for setting in told.values():
        assert [each["asked"] for each in setting["asked"]] == [
            "mvbench", "videomme", "egoschema-subset", "egoschema-full",
        ]  # fmt: skip
        assert all(each["first"]["frames, height, width"][0][0] == 8 for each in setting["asked"][:1])
        assert "hours of one A100" in setting["cost"][0]
    assert not (tmp_path / "out").exists()
    assert len(fitted) == 3 + 4 and {layers for _, layers in fitted} == {8}  # every config is fitted to the model
    # a hub id, without network: everything else is checked
    assert call(root, "fastvid", ("videomme",), "--dry-run", "--model_path", "Qwen/Qwen2.5-VL-7B-Instruct") == 0
    said = capsys.readouterr().out
    assert "not a folder here, so its files were not looked at" in said and "videomme 67.3" in said


def test_a_dry_run_that_can_read_nothing_says_so(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(root / "mvbench", tmp_path / "mvbench", ignore=shutil.ignore_patterns("*.mp4"))
    assert call(tmp_path, "flashvid", ("mvbench",), "--only", "mvbench", "--dry-run") == 4
    said = capsys.readouterr()
    assert "missing: 3" in said.out and "up to the model" not in said.out
    assert "none of the media of MVBench (test) can be read" in said.err
    assert f"prunevid eval check mvbench --data {tmp_path / 'mvbench'}" in said.err


@pytest.mark.parametrize("path", ["/nowhere/model", "./model", "a/b/c"])
def test_a_model_that_is_neither_a_folder_nor_a_hub_id_is_refused(
    root: Path, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (("--dry-run",), ()):
        assert call(root, "fastvid", ("videomme",), *words, "--model_path", path, "--out", str(root / "none")) == 2
        assert f"no model folder at '{path}', and that is no hub id" in capsys.readouterr().err
    assert not (root / "none").exists()


def test_options_that_would_do_nothing_are_refused(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(root, "fastvid", ("videomme",), "--dry-run", "--new_tokens", "8") == 2
    assert "nothing of fastvid that was asked for is timed" in capsys.readouterr().err
    assert call(root, "glimpseprune_vstar", ("vstar",), "--setting", "accuracy", "--new_tokens", "8") == 2
    assert "nothing of glimpseprune_vstar that was asked for is timed" in capsys.readouterr().err
    for option in ("--restart", "--dry-run"):
        assert prunevid("fastvid", "--page_only", option) == 2
        assert "--page_only asks nothing" in capsys.readouterr().err


def test_a_dry_run_of_times_counts_all_that_take_part(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--setting", "efficiency", "--limit", "2", "--dry-run", "--json")
    assert call(root, "glimpseprune_vstar", ("vstar",), *words) == 0
    [each] = json.loads(capsys.readouterr().out)["efficiency"]["asked"]
    assert each["configs"] == ["stock", "baseline", "GlimpsePrune", "random"]
    assert (each["questions"], each["answers"]) == (2, 8)


def test_a_dry_run_finds_weights_missing(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2_5_vl"}))
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "model-1.safetensors").touch()
    assert call(root, "fastvid", ("videomme",), "--dry-run", "--model_path", str(tmp_path)) == 3
    assert "lacks 1 of 2 files of weights, the first is model-2.safetensors" in capsys.readouterr().err


def test_another_family_runs_a_table_and_a_size_that_it_does_not_heed_is_refused(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ("--model_path", str(save_folder(tmp_path / "model", "llava_onevision")), "--out", str(tmp_path / "out"))
    words = ("fastvid", "--data", str(root / "videomme"), "--limit", "2", *model)
    assert prunevid(*words, "--dry-run", "--frames", "4", "--json") == 0
    [each] = json.loads(capsys.readouterr().out)["768frames"]["asked"]
    assert each["first"]["frames, height, width"][0][0] == 4
    for more in (("--dry-run",), ()):
        assert prunevid(*words, *more, "--max_pixels", "301056") == ConfigError.exit_code
        assert "max_pixels" in capsys.readouterr().err
    words = ("glimpseprune_vstar", "--data", str(root / "vstar"), "--setting", "efficiency", *model)
    assert prunevid(*words) == UnsupportedError.exit_code and "qwen2_5_vl" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
