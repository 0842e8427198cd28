"""What `prunevid ask` prints: for people, for programs, under --compare, --quiet and --verbose. A stub answers."""

import json
import logging
import re
from typing import Any

import pytest

from prunevid_qwen.cli import ask as answering
from prunevid_qwen.cli import main
from prunevid_qwen.config import PruneVidConfig
from tests.stub_model import StubModel, ask, clip, model, receipt

__all__ = ["clip", "model"]


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


def test_people_see_when_the_question_looked(
    clip: str, capsys: Any, monkeypatch: pytest.MonkeyPatch, model: list[StubModel]
) -> None:
    stats = receipt() | {"looked_at": [{"video": 0, "spans": [[12.0, 15.0]]}]}
    monkeypatch.setattr(StubModel, "generate", lambda *_given, **_named: {"answer": "red", "stats": stats})
    assert ask("--video_path", clip, "--question", "What?") == 0
    assert "00:12 to 00:15" in capsys.readouterr().out
    assert ask("--video_path", clip, "--question", "What?", "--quiet") == 0
    assert "00:12" not in capsys.readouterr().out


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
        "tau: 0.8",
        "warning: cut short",
    ):
        assert part in shown, part


def seen_by_the_encoder(**changes: Any) -> dict[str, Any]:
    made = {"units": 4480, "encoded": 1702, "share": 0.38, "reuse_threshold": 8.0, "early_tau": None}
    return {**made, "early_block": None, "seconds": 1.94, "note": None, **changes}


@pytest.mark.parametrize(
    ("changes", "said", "unsaid"),
    [
        ({}, ("38 %", "4,480", "reuse_threshold 8", "1.9 s"), ("early_tau", "0 %")),
        (
            {"early_tau": 0.9, "early_block": 7, "share": 0.45},
            ("reuse_threshold 8", "early_tau 0.9", "block 7", "38 %", "45 %"),
            ("0 %",),
        ),
        ({"reuse_threshold": None, "early_tau": 0.9, "early_block": 0.2}, ("early_tau 0.9",), ("reuse_threshold",)),
        ({"encoded": 4480, "note": "0 % stood still: all of it"}, ("100 %", "0 % stood still"), ()),
        ({"units": 0, "encoded": None, "share": None, "note": "nothing to do: no video"}, ("no video",), ("None",)),
        ({"encoded": None, "share": None, "note": "unknown"}, ("unknown", "reuse_threshold 8"), ("None", "%")),
        ({"reuse_threshold": None}, ("38 %", "equal positions"), ("reuse_threshold", "None")),
    ],
)
def test_people_see_how_much_was_encoded(
    changes: dict[str, Any], said: tuple[str, ...], unsaid: tuple[str, ...],
    clip: str, capsys: Any, monkeypatch: pytest.MonkeyPatch, model: list[StubModel],
) -> None:  # fmt: skip
    monkeypatch.setenv("COLUMNS", "160")
    stats = receipt() | {"vision": seen_by_the_encoder(**changes)}
    monkeypatch.setattr(StubModel, "generate", lambda *_given, **_named: {"answer": "red", "stats": stats})
    assert ask("--video_path", clip, "--question", "q") == 0
    (line,) = [each for each in capsys.readouterr().out.splitlines() if each.startswith("vision: ")]
    assert all(each in line for each in said) and not any(f" {each}" in line for each in unsaid), line
    assert ask("--video_path", clip, "--question", "q", "--json") == 0
    assert json.loads(capsys.readouterr().out)["stats"]["vision"] == stats["vision"]


@pytest.mark.parametrize("encoded", [4480, None])
def test_nothing_is_said_of_an_encoder_that_only_looks_for_equal_positions_and_found_none(
    encoded: int | None, model: list[StubModel], clip: str, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ask("--video_path", clip, "--question", "q") == 0
    assert "vision:" not in capsys.readouterr().out
    stats = receipt() | {"vision": seen_by_the_encoder(reuse_threshold=None, encoded=encoded, note="0 % stood still")}
    monkeypatch.setattr(StubModel, "generate", lambda *_given, **_named: {"answer": "red", "stats": stats})
    assert ask("--video_path", clip, "--question", "q") == 0
    assert "vision:" not in capsys.readouterr().out


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

    monkeypatch.setattr(answering, "load", lambda model, config, shown: Interrupted(config))
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


def test_a_command_line_may_be_empty(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([], program="demo.py") == 0, "as `make demo` does"
    assert capsys.readouterr().out
    assert main(["ask"]) == 2 and "Traceback" not in capsys.readouterr().err


def test_demo_falls_back_on_the_bundled_clip(model: list[StubModel], clip: str, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr(answering, "bundled_clip", lambda: (clip, "What colour?", "red"))
    assert main(["--json"], program="demo.py") == 0
    assert model[0].asked[0]["question"] == "What colour?" and model[0].asked[0]["video_path"] == clip
    printed = capsys.readouterr()
    assert json.loads(printed.out)["expected_answer"] == "red" and "(right)" in printed.err
    assert main(["demo", "--json", "--question", "Another?"]) == 0
    assert "expected_answer" not in json.loads(capsys.readouterr().out)
    assert main(["--video_path", clip], program="demo.py") == 2, "a video of one's own needs a question of one's own"
