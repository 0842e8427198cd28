"""The command line's options: made from the config, spelt in any way, read as what they are for."""

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from prunevid_qwen.cli import main
from prunevid_qwen.cli.output import outline
from prunevid_qwen.cli.pruning_options import spelt_out
from prunevid_qwen.config import PRESETS, FlatOptions, PruneVidConfig, get_config, option_types
from prunevid_qwen.config.option_classes import classes_of, names_in
from prunevid_qwen.config.option_help import field_help
from prunevid_qwen.config.typed import build_config, named_configs
from prunevid_qwen.errors import ConfigError, UnknownOption
from tests.stub_model import StubModel, ask, clip, model

__all__ = ["clip", "model"]
OPTIONS = list(option_types())


def test_every_field_is_an_option_with_its_sentence_and_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert ask("--help-all") == 0
    shown = re.sub(r"[\s│]+", " ", capsys.readouterr().out)
    said = field_help(FlatOptions)
    assert list(said) == [field.name for field in fields(FlatOptions)], "the docstring names exactly the fields"
    for name in OPTIONS:
        assert f"--{name} " in shown
        sentence = said[name].replace("`", "")
        assert sentence.lower() in shown.lower()
    for part in ("merger", "selector"):
        for method, own in classes_of(part).items():
            assert f" {part} {method}: {', '.join(names_in(own))} " in shown


def test_help_reads_at_80_columns(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for words in (["ask", "--help"], ["demo", "-h"], ["--help"], []):
        assert main(words) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    assert "…" not in shown
    assert "Examples" in shown and "Exit codes" in shown


@pytest.mark.parametrize("field", OPTIONS)
def test_a_default_spelt_as_an_option_changes_nothing(field: str) -> None:
    default = getattr(FlatOptions(), field)
    given = default if isinstance(default, bool) else str(default)
    if field in ("keep_threshold", "max_keep_ratio", "min_keep_tokens", "budget_scope", "glimpse_path", "random_seed"):
        with pytest.raises(UnknownOption, match=f"has no {field}: it has keep_ratio"):  # not an option of the paper's
            build_config("paper", {field: given})
    else:
        assert build_config("paper", {field: given}) == PruneVidConfig()


def test_what_is_reported_is_no_option_but_a_file_may_say_it(tmp_path: Path, clip: str, model: list[StubModel]) -> None:
    """--verbose is of every command, and asks for the stages' lines too."""
    assert {"verbose", "collect_stats"}.isdisjoint(OPTIONS)
    path = tmp_path / "c.json"
    path.write_text(json.dumps({"verbose": True, "collect_stats": False, "tau": 0.7}))
    read = build_config(str(path), {"keep_ratio": "0.2"})
    assert (read.verbose, read.collect_stats, read.tau, read.keep_ratio) == (True, False, 0.7, 0.2)
    for words, verbose in (([], False), (["--verbose"], True), (["--config", str(path)], True)):
        assert ask("--video_path", clip, "--question", "q", *words) == 0
        assert model[-1].config.verbose == verbose
        assert model[-1].asked[-1]["return_stats"] is True  # the report needs them, whatever a file says
    assert ask("--video_path", clip, "--question", "q", "--collect_stats") == 2


def test_options_override_the_preset() -> None:
    assert build_config("aggressive", {"tau": "0.7", "keep_ratio": None}) == get_config("aggressive").replace(tau=0.7)
    assert build_config("aggressive", {"pruning_rate": "0.5"}).keep_ratio == 0.5
    assert build_config("paper", {"pruning_layer": "3"}).pruning_layer == 3
    assert build_config("paper", {"pruning_layer": "0.5"}).pruning_layer == 0.5
    assert build_config("paper", {"pruning_layer": "None"}).pruning_layer is None


def test_a_json_file_is_a_config(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    PruneVidConfig(tau=0.5).to_json(path)
    assert build_config(str(path), {"fps": "3"}) == PruneVidConfig(tau=0.5, fps=3.0)


def test_sentences_in_a_list_have_a_line_each() -> None:
    told = {"names": ["a", "b"], "cost": ["an hour, no more", "a day"]}
    assert outline(told).splitlines() == ["names: a, b", "cost:", "  an hour, no more", "  a day"]


@pytest.mark.parametrize(
    ("base", "given"),
    [
        ("visionzip", {"keep_ratio": "0.25"}), ("visionzip", {"pruning_rate": "0.75"}),
        ("visionzip", {"pruning_layer": "3"}), ("visionzip", {"selector.keep_ratio": "0.25"}),
        ("visionzip", {"random_seed": "3"}), ("dart", {"cluster_ratio": "0.25"}), ("dart", {"merge_images": True}),
        ("baseline", {"keep_ratio": "0.25"}), ("stage1_only", {"keep_ratio": "0.25"}),
        ("paper", {"enable_stage1": False, "merger": "visionzip"}),
        ("paper", {"enable_stage2": False, "keep_ratio": "0.2"}),
    ],
)  # fmt: skip
def test_an_option_that_no_stage_would_read_is_refused(base: str, given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        build_config(base, given)


def test_an_option_beside_a_method_alone_turns_its_own_stage_on() -> None:
    assert build_config("visionzip", {"selector": "dart", "keep_ratio": "0.25"}).keep_ratio == 0.25
    assert build_config("visionzip", {"enable_stage2": True, "keep_ratio": "0.25"}).selector_name == "prunevid"
    assert build_config("visionzip", {"cluster_ratio": "0.25", "fps": "3"}).cluster_ratio == 0.25
    made = dict(named_configs("baseline,paper", {"keep_ratio": "0.25"}))
    assert made["baseline"] == get_config("baseline"), "what all configs are given is none of the baseline's"
    assert made["paper keep_ratio=0.25"].keep_ratio == 0.25


@pytest.mark.parametrize(
    ("words", "spelt"),
    [
        (["--enable_stage1", "false"], ["--no_enable_stage1"]),
        (["--enable-stage1=False", "--json"], ["--no_enable_stage1", "--json"]),
        (["--merge_images", "true", "x"], ["--merge_images", "x"]),
        (["--merge_images", "x"], ["--merge_images", "x"]),
        (["--question", "false"], ["--question", "false"]),
        (["--no_enable_stage2"], ["--no_enable_stage2"]),
    ],
)
def test_a_switch_may_be_given_a_value(words: list[str], spelt: list[str]) -> None:
    assert spelt_out(words) == (spelt, {})


def test_dashes_are_accepted(model: list[StubModel], clip: str) -> None:
    words = [
        "--video-path",
        clip,
        "--question",
        "q",
        "--keep-ratio",
        "0.3",
        "--no-enable-stage1",
        "--max-new-tokens",
        "5",
    ]
    assert ask(*words, "--json") == 0
    asked = model[0].asked[0]
    assert asked["config"] == PruneVidConfig(keep_ratio=0.3, enable_stage1=False)
    assert (asked["video_path"], asked["max_new_tokens"]) == (clip, 5)


def test_media_and_times_reach_the_model(model: list[StubModel], clip: str) -> None:
    words = ["--video_path", clip, "--video_path", clip, "--image", clip, "--start", "1", "--end", "2.5"]
    assert ask(*words, "--question", "q", "--json") == 0
    asked = model[0].asked[0]
    assert asked["video_path"] == [clip, clip] and asked["images"] == [clip]
    assert (asked["start"], asked["end"]) == (1.0, 2.5)


def test_presets_are_named_in_help(capsys: Any) -> None:
    assert main(["--help"], program="demo.py") == 0
    shown = capsys.readouterr().out
    assert "Usage: demo.py [" in shown
    assert all(preset in shown for preset in PRESETS)
