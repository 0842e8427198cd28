"""``prunevid train glimpse`` and ``prunevid convert-glimpse``: options, exit codes, what is written."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from prunevid_qwen.cli import main, output
from prunevid_qwen.cli.option import documented
from prunevid_qwen.cli.train import glimpse_recipe
from prunevid_qwen.stage2_select.glimpse import GlimpseVIP
from prunevid_qwen.training.glimpse import train as training
from prunevid_qwen.training.glimpse.recipe import GlimpseRecipe
from tests.glimpse_training import base_model, small
from tests.patience import PATIENCE

ROOT = Path(__file__).resolve().parent.parent
OPTIONS = documented(GlimpseRecipe, "")
PUBLISHED = ROOT / "tests" / "data" / "glimpse_checkpoint"


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A small recipe in a file; the bundled model is loaded once."""
    monkeypatch.setattr(training, "load_base", lambda recipe, device: base_model())
    path = tmp_path / "small.yaml"
    small(steps=2).to_yaml(path)
    return path


def picture_set(folder: Path, missing: bool = False) -> list[str]:
    """Options of a set of two pictures, of which the second may be missing."""
    for name in ("one.png", "two.png")[: 1 if missing else 2]:
        Image.new("RGB", (112, 84), "red").save(folder / name)
    box = {"width": 112, "height": 84, "bboxs": [[10, 10, 60, 60]], "dataset": "", "split": "train"}
    records = [{"question": "What?", "answer": "red", "image": f"{name}.png", **box} for name in ("one", "two")]
    (folder / "set.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return ["--data", "kind=visual_cot", "--data", f"path={folder}/set.jsonl", "--data", f"images={folder}"]


# ---- options


def test_help_names_every_option_of_a_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "glimpse", "--help-all"]) == 0
    shown = capsys.readouterr().out
    for field in fields(GlimpseRecipe):
        assert f"--{field.name} " in shown, field.name


def test_help_loads_no_torch() -> None:
    code = (
        "import sys\nfrom prunevid_qwen.cli import main\n"
        "assert main(['train', 'glimpse', '--help']) == main(['convert-glimpse', '--help']) == 0\n"
        "assert not {'torch', 'numpy', 'transformers', 'accelerate', 'yaml'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=PATIENCE, stdout=subprocess.DEVNULL)


def test_options_override_the_file(recipe: Path) -> None:
    given: dict[str, Any] = {
        "learning_rate": "1e-4", "steps": "none", "selected_layers": "3,5", "betas": "0.8, 0.9", "seed": "7",
        "skip_bad": True, "width": None, "data": ["samples=9", "conditions={long: 1}"],
    }  # fmt: skip
    made = glimpse_recipe(recipe, OPTIONS.made(given))
    assert made.learning_rate == 1e-4 and made.steps is None and made.selected_layers == (3, 5)
    assert made.betas == (0.8, 0.9) and made.seed == 7 and made.skip_bad and made.width == 16
    assert made.data == {"kind": "moving_shapes", "samples": 9, "conditions": {"long": 1}}
    assert glimpse_recipe(recipe, {"data": ["kind=visual_cot", "path=a.jsonl"]}).data == {
        "kind": "visual_cot", "path": "a.jsonl",
    }  # fmt: skip
    assert glimpse_recipe("glimpse", {}) == GlimpseRecipe.from_yaml("glimpse")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--steps", "many"], "steps is a whole number.*, got 'many'"),
        (["--data", "samples"], "--data takes OPTION=VALUE"),
        (["--data", "sample=3"], "did you mean 'samples'.*data has"),
        (["--check", "--no_check"], "contradict"),
        (["--no_check", "--skip_bad"], "--no_check cannot say"),
        (["--device", "cuda:1"], "--device takes cpu, got 'cuda:1'"),
        (["--per_device_batch", "2", "--effective_batch", "3"], "not a multiple"),
    ],
)
def test_what_cannot_be_meant_is_a_sentence(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert main(["train", "glimpse", "--recipe", str(recipe), "--out", str(tmp_path / "out"), *words]) == 2
    assert re.search(said, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


# ---- the data checker


def test_check_looks_at_the_data_and_loads_no_model(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "load_base", lambda *_: pytest.fail("the model was loaded"))
    words = ["train", "glimpse", "--recipe", str(recipe), "--out", str(tmp_path / "out"), "--check"]
    assert main([*words, *picture_set(tmp_path)]) == 0
    assert "data: all 2 records can be trained on" in capsys.readouterr().out
    (tmp_path / "two.png").unlink()
    assert main([*words, *picture_set(tmp_path, missing=True), "--json"]) == 4
    told = json.loads(capsys.readouterr().out)
    assert told["problems"] == 1 and told["flaws"]["data"] == {"missing_image": 1} and told["records"]["data"] == 2
    assert not (tmp_path / "out").exists()


def test_bad_records_are_refused_or_left_out(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "glimpse", "--recipe", str(recipe), "--out", str(tmp_path / "out"), "--steps", "1"]
    words += picture_set(tmp_path, missing=True)
    assert main(words) == 4
    assert "1 of 2 records cannot be trained on" in capsys.readouterr().err
    assert main([*words, "--skip_bad"]) == 0
    assert json.loads((tmp_path / "out" / "train.json").read_text())["records"] == 1


# ---- training


def test_a_run_says_what_came_out_and_leaves_a_predictor(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["train", "glimpse", "--recipe", str(recipe), "--out", str(out), "--json"]) == 0
    said = capsys.readouterr()
    record = json.loads(said.out)
    assert record == json.loads((out / "train.json").read_text())
    assert record["steps"] == 2 and record["recipe"]["model_path"] == "bundled" and "commit" in record
    assert {"prunevid_qwen", "torch", "transformers", "accelerate"} <= record["versions"].keys()
    assert "training 2/2  lm " in said.err and "evaluating at step 2  lm " in said.err
    assert GlimpseVIP.from_pretrained(out / "model").facts.layers == 8
    assert main(["train", "glimpse", "--recipe", str(recipe), "--out", str(out)]) == 0
    assert f"predictor: {out / 'model'}" in capsys.readouterr().out


def test_the_curve_is_drawn_where_matplotlib_is(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["train", "glimpse", "--recipe", str(recipe), "--out", str(tmp_path / "out")]
    with monkeypatch.context() as patch:
        patch.setattr(output.importlib.util, "find_spec", lambda name: None)
        assert main(words) == 0
    assert capsys.readouterr().err.count("matplotlib is not installed") == 1
    assert not (tmp_path / "out" / "curve.svg").exists()
    pytest.importorskip("matplotlib")
    assert main(words) == 0
    assert (tmp_path / "out" / "curve.svg").read_text(encoding="utf-8").lstrip().startswith("<?xml")


def test_ctrl_c_says_how_to_go_on(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Path] = []

    def stop(made: Any, out: Path, **_: Any) -> None:
        out.mkdir()
        (out / "curve.jsonl").write_text('{"step": 10, "lm": 1.0}\n')
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "train", stop)
    plot = SimpleNamespace(draw_curve=lambda curve, evaluation, path: drawn.append(path))
    monkeypatch.setitem(sys.modules, "prunevid_qwen.training.glimpse.curve_plot", plot)  # it imports matplotlib
    monkeypatch.setattr(output.Reporting, "can_plot", lambda *_: True)
    assert main(["train", "glimpse", "--recipe", str(recipe), "--out", str(tmp_path / "out")]) == 130
    assert f"{tmp_path / 'out'}: the same command goes on" in capsys.readouterr().err
    assert drawn == [tmp_path / "out" / "curve.svg"], "what was trained until then is drawn"


# ---- converting a published predictor


def test_a_published_predictor_becomes_safetensors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert-glimpse", str(PUBLISHED), str(tmp_path / "ours")]) == 0
    said = capsys.readouterr().out
    assert "wrote " in said and "glimpse vectors" in said and "4,224 parameters of le_proj" in said  # 64 x 64 + 2 x 64
    assert sorted(path.name for path in (tmp_path / "ours").iterdir()) == ["config.json", "model.safetensors"]
    theirs, ours = GlimpseVIP.from_pretrained(PUBLISHED), GlimpseVIP.from_pretrained(tmp_path / "ours")
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], tensor), name
    assert main(["convert-glimpse", str(PUBLISHED), str(tmp_path / "half"), "--dtype", "bfloat16"]) == 0
    size = {name: (tmp_path / name / "model.safetensors").stat().st_size for name in ("ours", "half")}
    assert size["half"] < 0.55 * size["ours"]
    capsys.readouterr()
    assert main(["convert-glimpse", str(tmp_path / "ours"), str(tmp_path / "again"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["left_out"] == 0, "of ours nothing is"


def test_a_conversion_overwrites_only_what_it_is_told_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = tmp_path / "theirs", tmp_path / "ours"
    shutil.copytree(PUBLISHED, source)
    assert main(["convert-glimpse", str(source), str(out)]) == 0
    assert main(["convert-glimpse", str(source), str(out)]) == 2
    assert "is there already: name another folder, or pass --force" in capsys.readouterr().err
    assert main(["convert-glimpse", str(source), str(out), "--force"]) == 0
    assert main(["convert-glimpse", str(source), str(source), "--force"]) == 2
    assert "is the source itself" in capsys.readouterr().err
    assert json.loads((source / "config.json").read_text())["model_type"].endswith("_gp")
    assert main(["convert-glimpse", str(source), str(tmp_path / "x"), "--dtype", "int8"]) == 2
    assert main(["convert-glimpse", str(tmp_path / "nowhere"), str(tmp_path / "x")]) == 2


def test_a_recipe_of_the_package_goes_by_name_outside_a_clone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--data", "kind=moving_shapes", "--data", "samples=2", "--model_path", "bundled", "--check"]
    assert main(["train", "glimpse", "--recipe", "glimpse", *words]) == 0
    assert main(["train", "glimpse", "--recipe", "train/glimpse.yaml", *words]) == 0  # as it was once
    capsys.readouterr()
    assert main(["train", "glimpse", "--recipe", "none.yaml", *words]) == 2
    assert "glimpse_tiny" in capsys.readouterr().err


def test_the_demo_answers_with_the_bundled_predictor_and_shows_its_count(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--selector", "glimpse"], program="demo.py") == 0
    said = " ".join(capsys.readouterr().out.split())
    kept = int(re.search(r"glimpse after layer 2; chose (\d+) tokens by its threshold of 0\.5,", said)[1])
    assert f"after stage 2 {kept} " in said
    assert "The clip's true answer: green (right)." in said
    assert main(["--config", "glimpse", "--json", "--max-keep-ratio", "0.1"], program="demo.py") == 0
    stats = json.loads(capsys.readouterr().out)["stats"]
    assert stats["stage1"]["enabled"] is False
    assert stats["stage2"]["kept_tokens"] <= 12
    assert stats["stage2"]["max_ratio"] == 0.1
    assert main(["--selector", "glimpse", "--keep_ratio", "0.2"], program="demo.py") == 2
    assert "pass max_keep_ratio=0.2" in capsys.readouterr().err
    assert main(["--selector", "glimpse", "--glimpse_path", "tests/data/glimpse_checkpoint"], program="demo.py") == 2
    assert "made for a model of 6 layers, width 64" in capsys.readouterr().err
