"""Controls of the page are made from the methods' own options, and say the config that they show."""

from __future__ import annotations

from typing import Any

import pytest

from prunevid_qwen.app.method_controls import AS_PRESET, OFF, Choices, controls_of, methods_of
from prunevid_qwen.app.receipt_tables import TOKENS_HEAD, reused_line, times_head, times_rows, tokens_rows
from prunevid_qwen.cli import main
from prunevid_qwen.config.option_classes import options_class
from prunevid_qwen.config.presets import PRESETS, get_config
from prunevid_qwen.errors import ConfigError

METHODS = [(part, name) for part in ("merger", "selector") for name in methods_of(part)[2:]]


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_as_it_is_shown_is_the_preset(preset: str) -> None:
    choices = Choices()
    config = choices.chosen(preset)
    assert config == get_config(preset)
    shown = {each.name: each.value for each in controls_of(config)}
    assert choices.chosen(preset, changes=shown) == config


@pytest.mark.parametrize(("part", "name"), METHODS)
def test_a_method_has_controls_and_what_they_show_is_chosen(part: str, name: str) -> None:
    choices = Choices("paper")
    chosen: dict[str, Any] = {part: name}
    config = choices.chosen("paper", **chosen)
    assert getattr(config, part) == options_class(part, name)()
    controls = controls_of(config)
    assert choices.chosen("paper", **chosen, changes={each.name: each.value for each in controls}) == config
    assert not [each for each in controls if "path" in each.name]  # what is typed is never a path
    assert all(each.help for each in controls)
    shares = [each for each in controls if each.kind == "share" and each.name.startswith(f"{part}.")]
    for each in shares:
        smaller = choices.chosen("paper", **chosen, changes={each.name: 0.05})
        assert getattr(getattr(smaller, part), each.name.split(".")[1]) == 0.05


def test_stages_are_switched_off_and_the_command_lines_options_lie_over_every_preset() -> None:
    choices = Choices("recommended", {"max_frames": "8"})
    assert choices.presets[0] == "recommended" and choices.presets[-1] == "baseline"
    assert "oracle" not in methods_of("selector")  # it is told what is right, and no page tells it
    off = choices.chosen("paper", OFF, OFF)
    assert not off.flat()["enable_stage1"] and not off.flat()["enable_stage2"] and off.flat()["max_frames"] == 8


def test_changes_of_a_method_that_is_no_longer_chosen_are_left_out() -> None:
    changed = {"selector.keep_ratio": 0.25, "selector.layers": "3"}
    assert Choices().chosen("paper", AS_PRESET, OFF, changed) == Choices().chosen("paper", AS_PRESET, OFF)


@pytest.mark.parametrize(
    "asked",
    [("/etc/passwd",), ("paper", "unheard"), ("paper", AS_PRESET, "unheard"), ("paper", AS_PRESET, AS_PRESET,
     {"selector.keep_ratio": 25})],
)  # fmt: skip
def test_a_name_or_value_that_is_not_on_offer_is_refused(asked: Any) -> None:
    with pytest.raises(ConfigError):
        Choices().chosen(*asked)


STATS: dict[str, Any] = {
    "tokens": {"visual": 200, "layer_average": 40.4},
    "steps": [{"where": "door", "name": "prunevid", "tokens_out": 100}, {"where": "layer 2", "name": "fastv",
              "tokens_out": 20}],
    "stage3": {"cache_bytes": 1024, "cache_bytes_unpruned": 4096},
    "seconds": {"read": 0.5, "vision": 1.0, "merge": 0.25, "prefill": 0.5, "select": None, "compact": 0.0,
                "decode_per_token": 0.01, "total": 3.0},
    "session": {"vision": "reused", "prefix": "made", "question": 2},
}  # fmt: skip


def test_a_receipt_as_tables() -> None:
    rows = tokens_rows(STATS)
    assert all(len(row) == len(TOKENS_HEAD) for row in rows)
    assert [row[1] for row in rows[:4]] == ["200", "100", "20", "40"]
    assert rows[-1][2] == "25 %"
    without = {**STATS, "tokens": {"visual": 0, "layer_average": 0}, "steps": []}
    assert tokens_rows(without)[0][2] == ""  # a question about no picture
    first = {**STATS, "session": {"vision": "encoded", "prefix": "made"}}
    both = {"pruned": {"stats": first}, "unpruned": {"stats": {"seconds": {"vision": 0.01, "prefill": 2.0},
            "session": {"vision": "reused"}}}}  # fmt: skip
    assert times_head(both) == ["seconds", "pruned", "unpruned"]
    table = {row[0]: row[1:] for row in times_rows(both)}
    assert table["the prompt, all steps"] == ["0.750", "2.000"]
    assert table["vision encoder"] == ["1.000", "reused"] and "selecting" not in table
    assert table["each token after the first"] == ["0.0100", ""]
    assert "encoded before" in reused_line(STATS) and "layers" not in reused_line(STATS)
    assert reused_line({**STATS, "session": None}) == ""


def test_without_gradio_the_command_says_what_to_install(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["app"]) == main(["--app"], program="demo.py") == main(["demo", "--app"]) == 3
    assert capsys.readouterr().err.count("pip install 'prunevid_qwen[app]'") == 3


def test_the_commands_options_are_checked_before_anything_is_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["app", "--keep_ratio", "25"]) == main(["app", "--max_seconds", "0"]) == 2
    assert "did you mean" in capsys.readouterr().err.lower()
    assert main(["--app", "--help"], program="demo.py") == 0
    assert "--max_megabytes" in capsys.readouterr().out
