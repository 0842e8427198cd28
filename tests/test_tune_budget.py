"""`prunevid tune budget`: the bound keeps its level, halves and choice are as said, and the toy is really asked."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prunevid_qwen import PrunedVLM, get_config
from prunevid_qwen.app.uploads import CLIPS
from prunevid_qwen.cli import main
from prunevid_qwen.cli.tune_budget import report_lines, share_of
from prunevid_qwen.errors import ConfigError, MediaError
from prunevid_qwen.evaluation.tuning.choosing import check_enough, chosen, configs_of, halves
from prunevid_qwen.evaluation.tuning.questions_by_video import questions_by_video
from prunevid_qwen.evaluation.tuning.same_answers import Agreeing, BudgetAnswers, VideoAnswers, answered
from prunevid_qwen.evaluation.tuning.upper_bound import least_clusters, shown_below, upper_bound

CLIP, OTHER = CLIPS / "late_square.mp4", CLIPS / "three_arrive.webm"
ASKED = ("What color is the last object?", "Which direction does the red object move?", "How many objects are there?")


# -- the bound


@pytest.mark.parametrize("rate", [0.05, 0.2])
@pytest.mark.parametrize("of", [1, 10])
def test_a_rate_that_is_not_below_is_seldom_shown_to_be(rate: float, of: int) -> None:
    rng = np.random.default_rng(0)
    drawn = rng.binomial(of, rate, (400, 100)) / of
    assert sum(shown_below(list(values), rate) for values in drawn) <= 0.05 * 400 + 3 * (400 * 0.05 * 0.95) ** 0.5
    lower = rng.binomial(of, rate / 4, (400, 100)) / of
    assert sum(shown_below(list(values), rate) for values in lower) > 100  # and what is far below often is


def test_the_bound_is_what_is_shown() -> None:
    values = [0.0, 0.1, 0.0, 0.0, 0.3] * 20
    bound = upper_bound(values)
    assert np.mean(values) < bound < 0.3
    assert shown_below(values, bound) and not shown_below(values, bound - 0.001)
    assert upper_bound([]) == upper_bound([1.0] * 9) == 1
    assert not shown_below([0.0] * 30 + [1.0] * 30, 0.2, level=0.999999)


def test_no_difference_seen_needs_so_many() -> None:
    for rate in (0.02, 0.1):
        count = least_clusters(rate)
        assert shown_below([0.0] * count, rate) and not shown_below([0.0] * (count - 1), rate)
        assert (1 - rate) ** count <= 0.05  # fewer cannot, by any rule


# -- the choice


def scripted(differ: Mapping[str, Mapping[float, int]], questions: int = 5) -> list[VideoAnswers]:
    """Return videos of which so many answers differ under each budget."""
    asked = tuple(map(str, range(questions)))

    def under(budget: float, count: int) -> BudgetAnswers:
        return BudgetAnswers(("?",) * questions, tuple(k >= count for k in range(questions)), (budget,) * questions)

    return [
        VideoAnswers(name, asked, ("a",) * questions, {budget: under(budget, count) for budget, count in own.items()})
        for name, own in differ.items()
    ]


NAMES = [f"{number}.mp4" for number in range(200)]


def test_halves_do_not_depend_on_the_order_and_share_nothing() -> None:
    first, held_out = halves(NAMES)
    assert halves(NAMES[::-1]) == (first, held_out)
    assert sorted(first + held_out) == sorted(NAMES) and abs(len(first) - len(held_out)) <= 1


def test_the_smallest_budget_of_an_unbroken_row_is_chosen() -> None:
    found = chosen(scripted({name: {0.5: 0, 0.3: 0, 0.2: 1, 0.1: 0} for name in NAMES}), 0.1)
    assert found["chosen"] == 0.3 and found["held"]  # 0.1 lies behind one that broke the promise
    assert [row["shown"] for row in found["rows"]] == [True, True, False, False]
    assert [row["first"]["disagreement"] for row in found["rows"]] == [0, 0, 0.2, 0]
    assert [row["kept"] for row in found["rows"]] == [0.5, 0.3, 0.2, 0.1]
    assert chosen(scripted({name: {0.5: 1} for name in NAMES}), 0.1)["chosen"] is None


def test_the_held_out_half_takes_no_part_and_may_break_the_promise() -> None:
    first, _ = halves(NAMES)
    found = chosen(scripted({name: {0.5: 0 if name in first else 3} for name in NAMES}), 0.1)
    assert found["chosen"] == 0.5 and found["held"] is False
    row = found["rows"][0]
    assert row["held_out"]["disagreement"] == 0.6 and row["first"]["upper"] < 0.1
    assert "above the promise" in "\n".join(report_lines({**found, "option": "selector.keep_ratio"}))


def test_too_few_videos_are_refused_and_what_they_can_show_is_said() -> None:
    few = {name: ["?"] * 10 for name in NAMES[:40]}
    with pytest.raises(ConfigError, match="20") as said:
        check_enough(few, 0.1, "videos")
    able = float(str(said.value).split("--max_disagreement ")[1].split("%")[0]) / 100
    check_enough(few, able, "videos")
    check_enough(few, 0.1, "questions")
    with pytest.raises(ConfigError):
        check_enough({"a": ["?"]}, 0.5, "videos")


@pytest.mark.parametrize(
    ("preset", "option", "lever"),
    [("paper", None, "selector.keep_ratio"), ("paper", "cluster_ratio", "merger.cluster_ratio"),
     ("stage1_only", None, "merger.cluster_ratio"), ("recommended", "merger.cluster_ratio", "merger.cluster_ratio")],
)  # fmt: skip
def test_the_budget_is_the_methods_own_option(preset: str, option: str | None, lever: str) -> None:
    found, configs = configs_of(get_config(preset), (0.2, 0.5), option)
    part, name = lever.split(".")
    assert found == lever and list(configs) == [0.5, 0.2]
    assert [getattr(getattr(each, part), name) for each in configs.values()] == [0.5, 0.2]


def test_a_threshold_is_turned_off_beside_its_budget() -> None:
    _, configs = configs_of(get_config("glimpse"), (0.3,))
    assert configs[0.3].selector.keep_threshold is None and configs[0.3].selector.keep_ratio == 0.3


def test_budgets_and_options_that_cannot_be(capsys: Any) -> None:
    for budgets, option in (((25,), None), ((), None), ((0.2, 0.2), None), ((0.2,), "layers")):
        with pytest.raises(ConfigError):
            configs_of(get_config("paper"), budgets, option)
    with pytest.raises(ConfigError):
        configs_of(get_config("baseline"), (0.2,))
    assert share_of("2%") == share_of("0.02") == share_of(" 2 % ") == 0.02
    for wrong in ("2", "0", "100%", "1", "two", "-1%", "nan"):
        with pytest.raises(ConfigError):
            share_of(wrong)


# -- the questions


def test_questions_of_words_and_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "asked.jsonl"
    file.write_text('{"question": "A?"}\n\n{"question": "B?", "video": "b.mp4", "id": 3}\n')
    own = str(tmp_path.resolve() / "b.mp4")
    assert questions_by_video(["a.mp4"], ["C?", "A?"], file) == {"a.mp4": ["C?", "A?"], own: ["B?"]}
    assert questions_by_video(["a.mp4", "c.mp4"], [], file) == {"a.mp4": ["A?"], "c.mp4": ["A?"], own: ["B?"]}
    with pytest.raises(ConfigError):
        questions_by_video(["a.mp4"], [], None)
    with pytest.raises(ConfigError, match="line 1"):
        questions_by_video([], [], file)
    with pytest.raises(MediaError):
        questions_by_video([], [], tmp_path / "gone.jsonl")
    file.write_text('{"questoin": "A?"}\n{"question": 3}\n[]\nno\n{"question": "A?", "video": 1}')
    with pytest.raises(ConfigError) as said:
        questions_by_video(["a.mp4"], [], file)
    assert "questoin" in str(said.value) and all(f"line {number}" in str(said.value) for number in range(1, 6))


# -- the toy


@pytest.fixture(scope="module")
def model() -> Any:
    return PrunedVLM("bundled", get_config("paper"))


def test_answers_are_those_of_calls_of_their_own(model: Any) -> None:
    _, configs = configs_of(get_config("paper"), (1.0, 0.2))
    found = answered(model, str(CLIP), ASKED, configs, Agreeing(max_new_tokens=3))
    baseline = model.with_config(get_config("baseline"))
    assert found.unpruned == tuple(baseline.generate(str(CLIP), each, max_new_tokens=3)["answer"] for each in ASKED)
    for budget, config in configs.items():
        alone = [
            model.with_config(config).generate(str(CLIP), each, max_new_tokens=3, return_stats=True) for each in ASKED
        ]
        own = found.under[budget]
        assert own.answers == tuple(each["answer"] for each in alone)
        assert own.agrees == tuple(a == b for a, b in zip(own.answers, found.unpruned, strict=True))
        tokens = [each["stats"]["tokens"] for each in alone]
        assert own.kept == tuple(each["layer_average"] / each["visual"] for each in tokens)


def test_the_gap_is_the_likelihood_that_is_missing(model: Any) -> None:
    """Held against the logits of a forward of the prompt with the unpruned answer behind it."""
    harsh = get_config("paper").replace(cluster_ratio=0.05, tau=0.1)
    _, configs = configs_of(harsh, (0.05,))
    agreeing = Agreeing("gap", max_gap=1e-6, max_new_tokens=3)
    found = answered(model, str(CLIP), ASKED, configs, agreeing)
    own = found.under[0.05]
    assert own.gaps is not None and not all(own.agrees) and max(own.gaps) > 0
    for question, told, gap, answer in zip(ASKED, found.unpruned, own.gaps, own.answers, strict=True):
        likely = []
        for config in (get_config("baseline"), configs[0.05]):
            twin = model.with_config(config)
            first = model.with_config(get_config("baseline")).generate(
                str(CLIP), question, max_new_tokens=3, return_dict_in_generate=True, output_logits=True
            )["output"]
            tokens = first.sequences[0, -len(first.logits) :]
            start = len(first.sequences[0]) - len(tokens)

            def next_one(_: int, ids: Any, tokens: Any = tokens, start: int = start) -> list[int]:
                return [int(tokens[min(len(ids) - start, len(tokens) - 1)])]

            out = twin.generate(
                str(CLIP), question, max_new_tokens=len(tokens), return_dict_in_generate=True, output_logits=True,
                prefix_allowed_tokens_fn=next_one,
            )["output"]  # fmt: skip
            steps = torch.stack([each[0].float().log_softmax(-1) for each in out.logits])
            likely.append(float(steps.gather(1, tokens[:, None]).mean()))
        assert gap == pytest.approx(max(0.0, likely[0] - likely[1]), abs=1e-4), (question, told, answer)
    lax = answered(model, str(CLIP), ASKED, configs, Agreeing("gap", max_gap=1e9, max_new_tokens=3))
    assert all(lax.under[0.05].agrees)


def run(*words: str) -> int:
    return main(["tune", "budget", *words])


def test_the_command_writes_a_config_that_is_used(tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "mine.json"
    words = [str(CLIP), str(OTHER), *(part for each in ASKED for part in ("-q", each)), "--out", str(out)]
    words += ["--clusters", "questions", "--max_disagreement", "65%", "--budgets", "1.0,0.8", "--json", "--quiet"]
    assert run(*words, "--max_new_tokens", "2") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["out"] == str(out) and told["held"] and told["chosen"] in (1.0, 0.8)
    assert all(a["kept"] >= b["kept"] for a, b in pairwise(told["rows"]))
    saved = json.loads(out.read_text())
    assert saved["selector"]["keep_ratio"] == told["chosen"]
    assert run(*words) == 2  # it is there already


def test_the_command_refuses_before_a_model_is_loaded(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    def loaded(*_: Any, **__: Any) -> Any:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(PrunedVLM, "from_pretrained", loaded)
    there = [str(CLIP), str(OTHER), "-q", "?", "--out", str(tmp_path / "a.json")]
    assert run(*there) == 2 and "120" in capsys.readouterr().err
    assert run(*there, "--max_disagreement", "2") == 2 and "2%" in capsys.readouterr().err
    assert run(*there, "--budgets", "25") == 2 and "0.25" in capsys.readouterr().err
    assert run(*there, "--by", "taste") == run(*there, "--clusters", "frames") == 2
    assert run("gone.mp4", "-q", "?") == 4
    for name in ("b.mp4", "c.mp4"):
        (tmp_path / name).write_bytes(CLIP.read_bytes())
        there.insert(0, str(tmp_path / name))
    assert run(*there, "--max_disagreement", "97%", "--dry_run") == 0
    assert run("gone.mp4", *there, "--max_disagreement", "97%", "--dry_run") == 4


def test_none_found_writes_nothing_and_says_so_by_its_code(tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "mine.json"
    words = [str(CLIP), str(OTHER), *(part for each in ASKED for part in ("-q", each)), "--out", str(out), "--quiet"]
    words += ["--tau", "0.01", "--cluster_ratio", "0.03", "--budgets", "0.03", "--max_new_tokens", "2"]
    assert run(*words, "--clusters", "questions", "--max_disagreement", "64%") == 6
    assert not out.exists() and "--option merger.cluster_ratio" in capsys.readouterr().out


def test_an_interruption_reports_what_is_done(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    from prunevid_qwen.evaluation.tuning import same_answers

    asked: list[str] = []
    ask = same_answers.answered

    def interrupted(model: Any, video: str, *rest: Any) -> Any:
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(video)
        return ask(model, video, *rest)

    copies: Sequence[Path] = [tmp_path / f"{number}.mp4" for number in range(4)]
    for each in copies:
        each.write_bytes(CLIP.read_bytes())
    monkeypatch.setattr(same_answers, "answered", interrupted)
    words = [*map(str, copies), "-q", ASKED[0], "--max_disagreement", "90%", "--budgets", "0.5", "--json", "--quiet"]
    assert run(*words, "--out", str(tmp_path / "a.json")) == 130
    told = json.loads(capsys.readouterr().out)
    assert told["interrupted"] and told["rows"][0]["first"]["videos"] == 1
    assert not (tmp_path / "a.json").exists()
