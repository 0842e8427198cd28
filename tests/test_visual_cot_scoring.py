"""Scores by string, the score in a judge's reply, standard errors, who competes."""

from __future__ import annotations

import math

import numpy as np
import pytest

from prunevid_qwen.config import PruneVidConfig, get_config
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.evaluation.protocol.scorers import contained, exact, normalised
from prunevid_qwen.evaluation.report.intervals import standard_error
from prunevid_qwen.evaluation.tasks.judge import Judge, Judged, score_in
from prunevid_qwen.evaluation.tasks.visual_cot import competitors


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("  A  Hat. ", "hat"),
        ("The boy!", "boy"),
        ("“Foliage.”", "foliage"),
        ("**Red**", "red"),
        ("\uff26\uff35\uff2c\uff2c", "full"),
        ("STRASSE", "strasse"),
        ("Straße", "strasse"),
        ("3.5", "3.5"),
        ("A", "a"),
        ("a an the", "a an the"),
        ("dog, a cat", "dog, cat"),
        ("...", ""),
        ("", ""),
    ],
)
def test_normalised(text: str, plain: str) -> None:
    assert normalised(text) == plain


@pytest.mark.parametrize(
    ("answer", "reference", "equal", "inside"),
    [
        ("Red", "red.", True, True),
        ("a hat", "The hat", True, True),
        ("It is red, I think.", "Red", False, True),
        ("bored", "red", False, False),
        ("red", "It is red", False, False),
        ("15", "5", False, False),
        ("3.5", "5", False, False),
        ("3.5", "3", False, False),
        ("5,000", "5", False, False),
        ("There are 5.", "5", False, True),
        ("C++ code", "C++", False, True),
        ("on top of the table", "On the top of table", True, True),
        ("", "red", False, False),
        ("red", "", False, False),
        ("", "", False, False),
        ("A", "A.", True, True),
    ],
)
def test_exact_and_contained(answer: str, reference: str, equal: bool, inside: bool) -> None:
    assert (exact(answer, reference), contained(answer, reference)) == (equal, inside)


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("score: 0.8", 0.8),
        ("Close enough.\n**Score: 1**", 1.0),
        ("SCORE: 1.00.", 1.0),
        ("The two agree, so score: 0", 0.0),
        ("score: .5", 0.5),
        ("score: 0.7\nscore: 0.7", 0.7),
        ("<think>score: 0.1?</think>score: 0.9", 0.9),
        ("score: 0.1 or rather\nscore: 0.9", None),
        ("score: x", None),
        ("score: 5", None),
        ("score: 1.5", None),
        ("score: -0.5", None),
        ("score: 0.5/1", None),
        ("score: 80%", None),
        ("score: nan", None),
        ("underscore: 1", None),
        ("0.8", None),
        ("", None),
    ],
)
def test_the_score_in_a_reply(reply: str, score: float | None) -> None:
    assert score_in(reply) == score


def test_a_judgement_is_known_by_everything_that_it_depends_on() -> None:
    judge, marked = Judge("http://a/v1", "one"), Judged("q", "r", "a")
    others = [
        Judge("http://b/v1", "one").key(marked),
        Judge("http://a/v1", "two").key(marked),
        judge.key(Judged("q2", "r", "a")),
        judge.key(Judged("q", "r2", "a")),
        judge.key(Judged("q", "r", "a2")),
        judge.key(Judged("q", "a", "r")),
    ]
    assert len({judge.key(marked), *others}) == 7
    assert Judge("http://a/v1", "one", api_key="k", timeout=1, retries=0).key(marked) == judge.key(marked)


def test_the_standard_error_is_the_usual_one_and_images_count_once() -> None:
    values = [0.0, 1.0, 1.0, 0.5]
    assert standard_error(values, list("abcd")) == pytest.approx(np.std(values, ddof=1) / math.sqrt(4))
    assert standard_error([0.0, 1.0] * 3, list("ab") * 3) == pytest.approx(standard_error([0.0, 1.0], list("ab")))
    assert standard_error([0.0, 1.0], ["a", "a"]) is None


def test_the_baseline_reads_images_as_the_others_do() -> None:
    mine = get_config("paper").replace(max_pixels=50176)
    (name, baseline), *others = competitors([("mine", mine), ("other", PruneVidConfig())])
    assert name == "baseline" and others == [("mine", mine), ("other", PruneVidConfig())]
    off = {"enable_stage1": False, "enable_stage2": False, "enable_cache_compression": False}
    assert baseline == mine.replace(**off)
    assert [name for name, _ in competitors([("mine", mine)], with_baseline=False)] == ["mine"]
    named = competitors([("mine", mine), ("baseline", get_config("baseline"))], with_baseline=False)
    assert [name for name, _ in named] == ["baseline", "mine"]
    assert [name for name, _ in competitors([("baseline", get_config("baseline"))])] == ["baseline"]
    with pytest.raises(ConfigError, match="two configs are called 'mine'"):
        competitors([("mine", mine), ("mine", mine)])
    with pytest.raises(ConfigError, match="no config to run"):
        competitors([], with_baseline=False)
