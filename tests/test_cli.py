"""The command line: every exit code, the shape of --json, options made from the config. A stub stands for the model."""

import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer

from prunevid_qwen.cli import answer as answering
from prunevid_qwen.cli import main
from prunevid_qwen.cli.commands import app
from prunevid_qwen.cli.options import build_config, spell_out_booleans
from prunevid_qwen.cli.values import field_help
from prunevid_qwen.config import PRESETS, FlatOptions, PruneVidConfig, get_config, option_types
from prunevid_qwen.config.table import classes_of, names_in
from prunevid_qwen.errors import ConfigError, PruningNotApplied, SetupError, UnknownOption
from tests.patience import PATIENCE

ROOT = Path(__file__).resolve().parent.parent
OPTIONS = list(option_types())


def receipt(pruned: bool = True, **seconds: float) -> dict[str, Any]:
    """A receipt as the API gives it, with figures that are easy to recognise."""
    kept, merged = (40, 100) if pruned else (200, 200)
    off = None if pruned else "off"
    return {
        "input": {
            "videos": [
                {
                    "source": "clip.mp4", "backend": "pyav", "frames": 16, "timestamps": [0.0, 0.5],
                    "seconds_per_grid": 1.0, "size": [112, 112], "grid": [8, 8, 8], "warnings": ["cut short"],
                }
            ],
            "images": [],
            "prompt_tokens": 230,
        },
        "stage1": {
            "enabled": pruned, "applied": pruned, "note": off, "original_tokens": 200, "compressed_tokens": merged,
            "merger": "prunevid", "tau": 0.8, "static_ratio": 0.31,
            "reduction_percentage": 50.0, "requested_ratio": 0.5, "achieved_ratio": 0.5,
        },
        "stage2": {
            "enabled": pruned, "applied": pruned, "note": off, "selector": "prunevid", "layer": 1,
            "original_tokens": merged, "kept_tokens": kept, "compressed_tokens": kept, "requested_ratio": 0.4,
            "achieved_ratio": 0.4,
        },
        "stage3": {
            "enabled": pruned, "applied": pruned, "note": off, "original_length": 130, "compressed_length": 70,
            "reduction_ratio": 0.46, "cache_lengths": [70] * 4, "cache_bytes": 7168 if pruned else 23552,
            "cache_bytes_unpruned": 23552,
        },
        "tokens": {"visual": 200, "after_stage1": merged, "after_stage2": kept, "layer_average": 70.0},
        "seconds": {
            "read": 0.1, "vision": 0.2, "merge": 0.01, "prefill": 0.1, "select": 0.01, "compact": 0.0,
            "decode_per_token": 0.01, "total": 0.5, **seconds,
        },
        "generated_tokens": 1, "position_scheme": "reference", "versions": {"python": "3.11"}, "device": "cpu",
        "dtype": "float32", "attn_implementation": "sdpa", "config": {"tau": 0.8}, "model": "bundled",
    }  # fmt: skip


class Shown(dict[str, Any]):
    """What was read: the arguments of the call."""

    encoded = ()


class StubModel:
    """Answers "red" at once and remembers how it was asked."""

    tokenizer = None

    def __init__(self, config: PruneVidConfig, error: BaseException | None = None) -> None:
        self.config, self.error = config, error
        self.asked: list[dict[str, Any]] = []
        self.prepared: list[dict[str, Any]] = []

    def with_config(self, config: PruneVidConfig) -> "StubModel":
        other = StubModel(config, self.error)
        other.asked, other.prepared = self.asked, self.prepared
        return other

    def prepare(self, **arguments: Any) -> dict[str, Any]:
        self.prepared.append(Shown(arguments))
        return self.prepared[0]

    def answer(self, prepared: dict[str, Any], **arguments: Any) -> dict[str, Any]:
        assert prepared is self.prepared[0]
        return self.generate(**prepared, **arguments, streamer=None)

    def generate(self, **arguments: Any) -> dict[str, Any]:
        self.asked.append({**arguments, "config": self.config})
        if self.error is not None:
            raise self.error
        sys.stdout.write("a library talks\n")
        if arguments["streamer"] is not None:
            arguments["streamer"].on_finalized_text("red", stream_end=True)
        return {"answer": "red", "stats": receipt(pruned=self.config.enable_stage1)}


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> list[StubModel]:
    """Let the command line load a stub; the list holds those it loaded."""
    loaded: list[StubModel] = []

    def load(request: Any) -> StubModel:
        loaded.append(StubModel(request.config))
        return loaded[-1]

    monkeypatch.setattr(answering, "load", load)
    return loaded


@pytest.fixture
def clip(tmp_path: Path) -> str:
    path = tmp_path / "clip ü.mp4"
    path.write_bytes(b"not empty; the stub does not look inside")
    return str(path)


def ask(*words: str) -> int:
    return main(["ask", *words])


# --- options -------------------------------------------------------------------------------------------------------


def test_every_field_is_an_option_with_its_sentence_and_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert ask("--help-all") == 0
    shown = re.sub(r"[\s│]+", " ", capsys.readouterr().out)
    said = field_help(FlatOptions)
    assert list(said) == [field.name for field in fields(FlatOptions)], "the docstring names exactly the fields"
    for name in OPTIONS:
        assert f"--{name} " in shown
        sentence = said[name].replace("`", "")
        assert sentence[:1].upper() + sentence[1:] in shown
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
    assert spell_out_booleans(words) == spelt


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


# --- exit codes ----------------------------------------------------------------------------------------------------

BAD_OPTIONS = {
    "unknown option": (["--keep_ration", "0.2"], "keep_ratio"),
    "unknown preset": (["--config", "papr"], "did you mean 'paper'?"),
    "no such config file": (["--config", "none.json"], "no config file"),
    "percent": (["--keep_ratio", "25"], "did you mean 0.25?"),
    "too much": (["--keep_ratio", "1.5"], "(0, 1]"),
    "nothing": (["--keep_ratio", "0"], "nothing would be left"),
    "not a number": (["--keep_ratio", "nan"], "(0, 1]"),
    "a word": (["--keep_ratio", "lots"], "keep_ratio is a number, got 'lots'"),
    "a fraction of a frame": (["--max_frames", "2.5"], "max_frames is a whole number, got '2.5'"),
    "said twice": (["--keep_ratio", "0.4", "--pruning_rate", "0.6"], "twice"),
    "bad rate": (["--pruning_rate", "1"], "[0, 1)"),
    "bad choice": (["--selection_scope", "globl"], "did you mean 'global'?"),
    "bad switch": (["--enable_stage1=maybe"], "true or false"),
    "no tokens": (["--max_new_tokens", "0"], "max_new_tokens"),
}


@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_bad_options_end_with_2_and_a_sentence(case: str, clip: str, capsys: pytest.CaptureFixture[str]) -> None:
    words, sentence = BAD_OPTIONS[case]
    assert ask("--video_path", clip, "--question", "q", *words) == 2
    printed = capsys.readouterr()
    assert sentence in printed.err and "Traceback" not in printed.err
    assert printed.out == ""


def test_no_question_and_nothing_to_ask_about(clip: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask("--video_path", clip) == 2
    assert "no question" in capsys.readouterr().err
    assert ask("--video_path", clip, "--question", " ") == 2
    assert ask("--question", "q") == 2
    assert "--video_path or --image" in capsys.readouterr().err


def test_an_unknown_command_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["aks"]) == 2
    assert "aks" in capsys.readouterr().err


def test_missing_and_empty_media_end_with_4(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = tmp_path / "empty.mp4"
    empty.touch()
    assert ask("--video_path", str(tmp_path / "none.mp4"), "--question", "q") == 4
    assert "no video at" in capsys.readouterr().err
    assert ask("--video_path", str(empty), "--question", "q") == 4
    assert "0 bytes" in capsys.readouterr().err
    assert ask("--image", str(tmp_path / "none.jpg"), "--question", "q", "--json") == 4
    assert ask("--video_path", "https://example.org/a.mp4", "--question", "q") == 4
    assert "download it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SetupError("no CUDA device here"), 3),
        (PruningNotApplied("stage 2 did not run"), 5),
        (ConfigError("bad"), 2),
        (KeyboardInterrupt(), 130),
    ],
)
def test_errors_of_the_model_have_their_exit_code(
    error: BaseException, code: int, clip: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(answering, "load", lambda request: StubModel(request.config, error))
    assert ask("--video_path", clip, "--question", "q", "--json") == code
    printed = capsys.readouterr()
    told = json.loads(printed.out)["error"]
    assert told["exit_code"] == code and told["message"] == (str(error) or "interrupted")
    assert told["message"] in printed.err and "Traceback" not in printed.err


def test_verbose_adds_the_traceback(clip: str, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(answering, "load", lambda request: StubModel(request.config, SetupError("no CUDA")))
    assert ask("--video_path", clip, "--question", "q", "--json", "--verbose") == 3
    assert "Traceback" in capsys.readouterr().err


def test_ctrl_c_while_options_are_read(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def interrupted(*_given: Any, **_named: Any) -> None:
        raise typer.Abort

    monkeypatch.setattr("typer.main.get_command", lambda _app: SimpleNamespace(main=interrupted))
    assert ask() == 130 and "Traceback" not in capsys.readouterr().err


def test_bugs_are_not_swallowed(clip: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering, "load", lambda request: StubModel(request.config, KeyError("a bug")))
    with pytest.raises(KeyError, match="a bug"):
        ask("--video_path", clip, "--question", "q", "--json")


# --- what is printed -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("merger", "said"), [("prunevid", "31 %"), ("rlt", "31 %"), ("pool", None)])
def test_people_see_which_merger_it_was_and_what_it_measured(
    merger: str, said: str | None, clip: str, capsys: Any, monkeypatch: pytest.MonkeyPatch, model: list[StubModel]
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    stats = receipt()
    stats["stage1"] |= {"merger": merger, "tau": None if said is None else 0.8}
    monkeypatch.setattr(StubModel, "generate", lambda *_given, **_named: {"answer": "red", "stats": stats})
    assert ask("--video_path", clip, "--question", "What?") == 0
    shown = capsys.readouterr().out
    assert f"by {merger}" in shown
    assert "move" not in shown and "still" not in shown, "a picture that scrolls looks alike, and moves"
    assert said is None or said in shown


def test_json_is_one_object_and_nothing_else(model: list[StubModel], clip: str, capsys: Any) -> None:
    assert ask("--video_path", clip, "--question", "q", "--json") == 0
    printed = capsys.readouterr()
    told = json.loads(printed.out)
    assert told["answer"] == "red" and told["question"] == "q"
    assert told["stats"]["stage2"]["kept_tokens"] == 40
    assert "a library talks" in printed.err
    assert "only ever seen moving shapes" in printed.err and "cut short" in printed.err
    assert model[0].asked[0]["streamer"] is None


def test_json_errors_of_parsing_are_objects_too(capsys: Any) -> None:
    assert ask("--json", "--keep_ratio", "25") == 2
    assert json.loads(capsys.readouterr().out)["error"]["type"] == "ConfigError"
    assert ask("--json", "--nonsense") == 2
    assert json.loads(capsys.readouterr().out)["error"]["type"] == "UsageError"


def test_people_see_the_answer_and_the_tokens_kept(
    model: list[StubModel], clip: str, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")  # no cell wraps
    assert ask("--video_path", clip, "--question", "What [colour]?", "--verbose") == 0
    shown = capsys.readouterr().out
    assert "What [colour]?" in shown and "Answer: red" in shown
    for part in (
        "200",
        "100",
        "40",
        "20 %",
        "31 %",
        "112x112",
        "130 -> 70",
        "0.50 s in all",
        "tau=0.8",
        "warning: cut short",
    ):
        assert part in shown, part


def test_a_picture_in_the_command_line_is_not_printed_again(model: list[StubModel], capsys: Any) -> None:
    picture = "data:image/png;base64," + "A" * 5000
    assert ask("--image", picture, "--question", "?") == 0
    assert model[0].asked[0]["images"] == [picture]
    assert capsys.readouterr().out.count("A") < 250


def test_compare_warms_up_and_shows_both(model: list[StubModel], clip: str, capsys: Any) -> None:
    assert ask("--video_path", clip, "--question", "q", "--compare") == 0
    shown = capsys.readouterr().out
    assert "pruned" in shown and "unpruned" in shown and "Same answer." in shown and "unmeasured" in shown
    asked = model[0].asked
    assert len(model[0].prepared) == 1, "media are read once for both sides"
    assert [a["config"].enable_stage1 for a in asked] == [True, False] * 8
    assert [a["max_new_tokens"] for a in asked] == [2, 2] + [64] * 14
    assert {a["config"].max_frames for a in asked} == {16}
    assert ask("--video_path", clip, "--question", "q", "--compare", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["baseline"]["stats"]["tokens"]["after_stage2"] == 200 and told["warmed_up"] and told["same_answer"]
    assert told["comparison"]["outcome"] in ("faster", "slower", "cannot_be_told_apart")
    assert told["comparison"]["turns"] == 7 == len(told["comparison"]["ratios"])
    assert isinstance(told["verdict"], str)


def test_ctrl_c_in_a_turn_ends_a_comparison(clip: str, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    class Interrupted(StubModel):
        def generate(self, **arguments: Any) -> dict[str, Any]:
            if len(self.asked) == 5:
                raise KeyboardInterrupt
            return super().generate(**arguments)

        def with_config(self, config: PruneVidConfig) -> "Interrupted":
            other = Interrupted(config)
            other.asked, other.prepared = self.asked, self.prepared
            return other

    monkeypatch.setattr(answering, "load", lambda request: Interrupted(request.config))
    assert ask("--video_path", clip, "--question", "q", "--compare", "--json") == 130
    printed = capsys.readouterr()
    assert json.loads(printed.out)["error"]["exit_code"] == 130 and "Traceback" not in printed.err


def test_shares_and_sizes_do_not_contradict_each_other(
    model: list[StubModel], clip: str, monkeypatch: Any, capsys: Any
) -> None:
    """Seen: "1.2 MiB of 1.2 MiB saved" beside 7 %, "0 %" of tokens that were there, "100 %" that was not all."""
    monkeypatch.setenv("COLUMNS", "160")
    stats = receipt()
    stats["tokens"] = {"visual": 4000, "after_stage1": 3999, "after_stage2": 9, "layer_average": 16.0}
    stats["stage1"]["static_ratio"] = 0.003
    stats["stage2"] |= {"requested_ratio": 0.0025, "achieved_ratio": 0.0022}
    stats["stage3"] |= {"cache_bytes": 60_235, "cache_bytes_unpruned": 1_300_235}
    monkeypatch.setattr(StubModel, "generate", lambda *_given, **_named: {"answer": "red", "stats": stats})
    assert ask("--video_path", clip, "--question", "q") == 0
    shown = capsys.readouterr().out
    shares = re.findall(r"([\d.]+) %", shown)
    assert shares.count("100") == 1 and not {"0", "0.0"} & set(shares), shown
    saved, whole = re.search(r"([\d.]+ \w+) of ([\d.]+ \w+) saved", shown).groups()  # type: ignore[union-attr]
    assert saved != whole


def test_merging_alone_makes_the_cache_smaller_too(
    model: list[StubModel], clip: str, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    stats = receipt()
    stats["stage3"] |= {"enabled": False, "applied": False, "note": None}
    monkeypatch.setattr(StubModel, "generate", lambda *_given, **_named: {"answer": "red", "stats": stats})
    assert ask("--video_path", clip, "--question", "q") == 0
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.strip().startswith("cache")]
    assert "30 %" in row and "saved" in row and "off" in row


def test_people_and_programs_are_warned_of_next_to_nothing(
    model: list[StubModel], clip: str, monkeypatch: Any, capsys: Any
) -> None:
    stats = receipt() | {"warnings": ["stage 1 left 1 of 200"]}
    monkeypatch.setattr(StubModel, "generate", lambda *_given, **_named: {"answer": "red", "stats": stats})
    assert ask("--video_path", clip, "--question", "q") == 0
    assert "warning: stage 1 left 1 of 200" in capsys.readouterr().out
    assert ask("--video_path", clip, "--question", "q", "--json") == 0
    printed = capsys.readouterr()
    assert "stage 1 left 1 of 200" in printed.err
    assert json.loads(printed.out)["stats"]["warnings"] == stats["warnings"]


def test_a_warning_that_the_log_showed_is_not_shown_again(
    model: list[StubModel], clip: str, monkeypatch: Any, capsys: Any, caplog: Any
) -> None:
    stats = receipt() | {"warnings": ["stage 1 left 1 of 200", "another"]}

    def generate(*_given: Any, **_named: Any) -> Any:
        logging.getLogger("prunevid_qwen.model").warning("stage 1 left 1 of 200")
        return {"answer": "red", "stats": stats}

    monkeypatch.setattr(StubModel, "generate", generate)
    handlers = list(logging.getLogger("prunevid_qwen").handlers)
    for words, shown in ((["--verbose"], 0), ([], 1), (["--verbose", "--json"], 0)):
        assert ask("--video_path", clip, "--question", "q", *words) == 0
        printed = capsys.readouterr()
        notes = printed.err if "--json" in words else printed.out
        assert notes.count("warning: stage 1 left 1 of 200") == shown and notes.count("warning: another") == 1
    assert logging.getLogger("prunevid_qwen").handlers == handlers


def test_people_see_why_a_stage_changed_nothing(
    model: list[StubModel], clip: str, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    stats = receipt()
    stats["stage1"] |= {"applied": False, "note": "nothing merged: for a reason"}
    monkeypatch.setattr(StubModel, "generate", lambda *_given, **_named: {"answer": "red", "stats": stats})
    assert ask("--video_path", clip, "--question", "q") == 0
    shown = capsys.readouterr().out
    assert "nothing merged: for a reason" in shown and "by prunevid" not in shown


# --- the demo ------------------------------------------------------------------------------------------------------


def test_a_command_line_may_be_empty(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([], program="demo.py") == 0, "as `make demo` does"
    assert capsys.readouterr().out
    assert main(["ask"]) == 2 and "Traceback" not in capsys.readouterr().err


def test_demo_falls_back_on_the_bundled_clip(model: list[StubModel], clip: str, monkeypatch: Any, capsys: Any) -> None:
    from prunevid_qwen.cli import request

    monkeypatch.setattr(request, "bundled_clip", lambda: (clip, "What colour?", "red"))
    assert main(["--json"], program="demo.py") == 0
    assert model[0].asked[0]["question"] == "What colour?" and model[0].asked[0]["video_path"] == clip
    printed = capsys.readouterr()
    assert json.loads(printed.out)["expected_answer"] == "red" and "(right)" in printed.err
    assert main(["demo", "--json", "--question", "Another?"]) == 0
    assert "expected_answer" not in json.loads(capsys.readouterr().out)
    assert main(["--video_path", clip], program="demo.py") == 2, "a video of one's own needs a question of one's own"


def test_presets_are_named_in_help(capsys: Any) -> None:
    assert main(["--help"], program="demo.py") == 0
    shown = capsys.readouterr().out
    assert "Usage: demo.py [" in shown
    assert all(preset in shown for preset in PRESETS)


# --- the real model ------------------------------------------------------------------------------------------------


def test_a_gpu_that_is_not_there_ends_with_3(clip: str, tmp_path: Path, capsys: Any) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    (tmp_path / "config.json").write_text('{"model_type": "qwen2_5_vl"}')  # refused before any weights are looked for
    words = ["--video_path", clip, "--question", "q", "--model_path", str(tmp_path), "--device", "cuda"]
    assert ask(*words) == 3
    printed = capsys.readouterr()
    assert "device='cuda' was asked for" in printed.err and printed.out == ""


def test_the_demo_answers_right_with_pruned_tokens() -> None:
    done = subprocess.run(
        [sys.executable, "demo.py", "--json", "--config", "paper"],
        cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["answer"] == told["expected_answer"]
    tokens = told["stats"]["tokens"]
    assert 0 < tokens["after_stage2"] < tokens["after_stage1"] < tokens["visual"]


def commands(group: Any, *names: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command under a group, with the words that call it."""
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, *names, name)
    if not hasattr(group, "commands"):
        yield names, group


def test_every_command_that_can_be_stopped_and_gone_on_with_says_its_exit_codes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = dict(commands(typer.main.get_command(app)))
    long = [names for names, command in found.items() if "stopped run" in f"{command.explained} {command.help}"]
    assert {("batch",), ("eval", "run"), ("bench", "speed"), ("train", "glimpse")} <= set(long)
    for names in [*long, ("ask",), ("demo",)]:
        assert main([*names, "--help"]) == 0
        said = capsys.readouterr().out
        assert [code for code in (129, 130, 143) if f"{code} " not in said] == [], names
