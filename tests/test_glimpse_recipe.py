"""The recipe of a glimpse training: its defaults and their sources, what it refuses, what it means for a model."""

import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from prunevid_qwen.config.option_help import field_help
from prunevid_qwen.errors import ConfigError, MediaError
from prunevid_qwen.training.glimpse.base import _published_taps, facts_for, make_trainee
from prunevid_qwen.training.glimpse.opened import open_recipe, spec_of
from prunevid_qwen.training.glimpse.recipe import GlimpseRecipe
from prunevid_qwen.training.glimpse.recipe_yaml import RECIPES, recipe_file, recipe_names
from tests.models import tiny_model
from tests.patience import PATIENCE

ROOT = Path(__file__).resolve().parent.parent
SHAPES = {"kind": "moving_shapes", "samples": 3}


def test_every_option_says_its_range_and_source() -> None:
    said = field_help(GlimpseRecipe)
    assert list(said) == [field.name for field in fields(GlimpseRecipe)]
    sources = ("paper", "authors", "trainer", "ours")
    assert not [name for name, text in said.items() if not any(source in text.lower() for source in sources)]


def test_the_published_file_is_the_defaults() -> None:
    published, defaults = GlimpseRecipe.from_yaml("glimpse").to_dict(), GlimpseRecipe().to_dict()
    assert published.pop("data") == {**defaults.pop("data"), "box_type": "pixels"}
    differ = {name for name in defaults if published[name] != defaults[name]}
    assert differ == {"workers"}  # which changes nothing of what comes out


def test_every_line_of_the_published_file_names_its_source() -> None:
    lines = (RECIPES / "glimpse.yaml").read_text(encoding="utf-8").splitlines()
    options = [line for line in lines if ":" in line and not line.startswith("#")]
    silent = [line for line in options if not any(who in line for who in ("paper", "authors", "trainer", "ours"))]
    assert silent == ["data:", "steps: null"]
    assert len([line for line in options if not line.startswith(" ")]) == len(fields(GlimpseRecipe))


def test_the_tiny_file_trains_the_bundled_model_on_shapes() -> None:
    recipe = GlimpseRecipe.from_yaml("glimpse_tiny")
    opened = open_recipe(recipe)
    assert recipe.model_path == "bundled" and recipe.eval_data["held_out"] is True
    assert len(opened["data"]) > len(opened["eval_data"]) >= 1


def test_every_set_that_is_missing_is_named_with_its_option(tmp_path: Path) -> None:
    there = {"kind": "visual_cot", "images": str(tmp_path)}
    sets = {name: {**there, "path": f"{tmp_path}/{name}.jsonl"} for name in ("data", "eval_data")}
    with pytest.raises(MediaError) as error:
        open_recipe(GlimpseRecipe(**sets))
    for name, options in sets.items():
        assert options["path"] in str(error.value) and f"--{name} path=FILE.jsonl" in str(error.value)
    assert str(Path.cwd()) in str(error.value) and "docs/glimpse.md" in str(error.value)


def test_yaml_gives_back_what_it_was_given(tmp_path: Path) -> None:
    recipe = GlimpseRecipe(selected_layers=(3, 5), reduce_layer=5, eval_data=SHAPES, eval_every=7, learning_rate=3e-5)
    recipe.to_yaml(tmp_path / "recipe.yaml")
    assert GlimpseRecipe.from_yaml(tmp_path / "recipe.yaml") == recipe


def test_yaml_reads_numbers_as_people_write_them(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("learning_rate: 1e-4\nepochs: 2\nbetas: [0.9, 1e-1]\n")  # YAML 1.1 takes 1e-4 for a text
    recipe = GlimpseRecipe.from_yaml(path)
    assert (recipe.learning_rate, recipe.epochs, recipe.betas) == (1e-4, 2.0, (0.9, 0.1))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"lerning_rate": 1e-4}, "got 'lerning_rate'; did you mean 'learning_rate'.* a recipe has"),
        ({"learning_rate": "fast"}, "learning_rate is a number, got 'fast'"),
        ({"learning_rate": 0}, "learning_rate is a number above 0, got 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate is a number, got nan"),
        ({"weight_decay": -0.1}, "weight_decay is a number of at least 0, got -0.1"),
        ({"le_dropout": 1.0}, r"le_dropout is a number in \[0, 1\), got 1.0"),
        ({"betas": [0.9]}, "betas are two numbers, got"),
        ({"betas": [0.9, 1]}, r"each of betas is a number in \[0, 1\), got 1.0"),
        ({"steps": 0}, "steps is a whole number of at least 1, got 0"),
        ({"steps": 2.5}, "steps is a whole number, got 2.5"),
        ({"width": True}, "width is a whole number, got True"),
        ({"skip_bad": "yes"}, "skip_bad is true or false, got 'yes'"),
        ({"selected_layers": 3}, "selected_layers is a list, got 3"),
        ({"data": "gqa.jsonl"}, "data is a mapping of options to values, got 'gqa.jsonl'"),
        ({"data": {}}, "data says what to train on"),
        ({"dtype": "bf16"}, "got 'bf16'; did you mean 'bfloat16'.* dtype is one of"),
        ({"precision": False}, "precision is a text, got False"),  # what YAML makes of a bare no
        ({"model_path": ""}, "model_path is a hub id"),
        ({"effective_batch": 16, "per_device_batch": 3}, "effective_batch=16 is not a multiple of per_device_batch=3"),
        ({"lm_weight": 0, "dice_weight": 0, "bce_weight": 0}, "nothing would be learnt"),
        ({"eval_every": 5}, "eval_every=5, but eval_data does not say"),
        ({"max_pixels": 100}, "max_pixels is a whole number of at least 784"),
    ],
)
def test_what_cannot_be_meant_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        GlimpseRecipe.from_dict(options)


def test_a_file_that_is_no_recipe_is_named(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    for text, said in (
        ("[1, 2]", "a recipe is a mapping"),
        ("a: [", "is not YAML"),
        ("steps: 0", r"recipe\.yaml:1: steps is"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=said):
            GlimpseRecipe.from_yaml(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"recipe\.yaml"):
        GlimpseRecipe.from_yaml(path)


def test_recipes_of_the_package_go_by_name_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # no clone around
    assert recipe_names() == ["glimpse", "glimpse_llava", "glimpse_plus", "glimpse_plus_tiny", "glimpse_tiny"]
    assert GlimpseRecipe.from_yaml("glimpse_tiny") == GlimpseRecipe.from_yaml(RECIPES / "glimpse_tiny.yaml")
    Path("mine.yaml").write_text("steps: 7")
    assert GlimpseRecipe.from_yaml(Path("mine.yaml")).steps == 7
    Path("glimpse").mkdir()  # the folder of a run
    assert recipe_file(Path("glimpse")) == RECIPES / "glimpse.yaml"


def test_the_old_path_of_a_recipe_is_its_name_and_said_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    for old in ("train/glimpse_tiny.yaml", str(ROOT / "train" / "glimpse_tiny.yaml")):
        caplog.clear()
        assert recipe_file(old) == RECIPES / "glimpse_tiny.yaml"
        assert len(caplog.records) == 1 and "--recipe glimpse_tiny" in caplog.text
    Path("train").mkdir()
    Path("train/glimpse.yaml").write_text("steps: 7")  # a file of one's own is what it says
    assert recipe_file("train/glimpse.yaml") == Path("train/glimpse.yaml")


@pytest.mark.parametrize("given", ["glimps", "none.yaml", "train/none.yaml", "other/glimpse.yaml", "."])
def test_an_unknown_recipe_lists_the_known_ones(given: str) -> None:
    with pytest.raises(ConfigError) as error:
        recipe_file(given)
    assert all(name in str(error.value) for name in (given, *recipe_names()))


@pytest.mark.parametrize(
    ("text", "line"),
    [("steps: 3\nlearning_rate: -1\n", 2), ("steps: 3\n\nstep: 4\n", 3), ("data:\n  kind: visual_cot\nsteps: x\n", 3)],
)
def test_a_bad_option_is_named_by_its_line(tmp_path: Path, text: str, line: int) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        GlimpseRecipe.from_yaml(path)
    assert f"{path}:{line}: " in str(error.value)


def test_options_of_data_are_checked_by_name() -> None:
    with pytest.raises(ConfigError, match=r"got 'sample'; did you mean 'samples'.* data has"):
        spec_of("data", {"kind": "moving_shapes", "sample": 3})
    with pytest.raises(ConfigError, match="data says its kind"):
        spec_of("data", {"path": "a.jsonl"})
    with pytest.raises(ConfigError, match="data: moving_shapes is drawn, without end"):
        spec_of("data", {"kind": "moving_shapes"})
    with pytest.raises(ConfigError, match="add held_out: true"):
        spec_of("eval_data", SHAPES)


# ---- what it means for a model


def published_model(full: list[int] | None) -> Any:
    vision = SimpleNamespace() if full is None else SimpleNamespace(fullatt_block_indexes=full)
    return SimpleNamespace(config=SimpleNamespace(vision_config=vision))


def test_taps_are_the_published_blocks() -> None:
    assert _published_taps(published_model([7, 15, 23, 31]), 32) == (31, 23, 15, 7)
    assert _published_taps(published_model(None), 32) == (31, 23, 15, 7)  # Qwen2-VL, whose blocks are all full
    assert _published_taps(published_model([]), 24) == (23, 17, 11, 5)
    assert _published_taps(published_model([0]), 1) == (0,)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen2_vl"])
@pytest.mark.parametrize(("layers", "last"), [(6, 3), (4, 2), (7, 4)])
def test_tokens_are_dropped_after_two_thirds_of_the_depth(family: str, layers: int, last: int) -> None:
    model = tiny_model(family=family, layers=layers)
    facts = facts_for(model, GlimpseRecipe(width=16, condition=32))
    assert (facts.reduce_layer, facts.selected_layers, facts.selected_visual_layers) == (last, (last,), (0,))
    assert (facts.layers, facts.hidden_size, facts.heads, facts.vision_width) == (layers, 64, 4, 32)
    assert -(-2 * 28 // 3) - 1 == 18 and -(-2 * 36 // 3) - 1 == 23  # the published models


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"reduce_layer": 6}, "selected_layers <= reduce_layer < num_hidden_layers"),
        ({"reduce_layer": 2, "selected_layers": (3,)}, "selected_layers <= reduce_layer"),
        (
            {"selected_visual_layers": (1,)},
            r"selected_visual_layers=\[1\], but .* has blocks 0 to 0",
        ),
        ({"width": 18}, "width 18 divides over 4 heads"),
    ],
)
def test_a_predictor_that_the_model_cannot_have_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        facts_for(tiny_model(), GlimpseRecipe.from_dict({"width": 16, "condition": 32, **options}))


def test_first_weights_follow_from_the_seed_alone() -> None:
    import torch

    model, recipe = tiny_model(), GlimpseRecipe(width=16, condition=32)
    facts = facts_for(model, recipe)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    one, other = make_trainee(model, facts, recipe), make_trainee(model, facts, recipe.replace(seed=1))
    assert torch.equal(torch.get_rng_state(), state)
    again = make_trainee(model, facts, recipe)
    assert torch.equal(one.learnable_embeddings, again.learnable_embeddings)
    assert not torch.equal(one.learnable_embeddings, other.learnable_embeddings)
    assert all(parameter.dtype == torch.float32 for parameter in one.parameters())


def test_reading_a_recipe_loads_no_torch() -> None:
    code = (
        "import sys\nfrom prunevid_qwen.training.glimpse.recipe import GlimpseRecipe\nGlimpseRecipe()\n"
        "assert not {'torch', 'numpy', 'transformers', 'accelerate'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=PATIENCE)
