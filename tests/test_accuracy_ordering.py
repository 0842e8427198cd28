"""The accuracy benchmark in small, on fixed videos: goes red when a method gets worse or the controls get too good.

Ordering with a margin, not exact figures: other releases of torch may answer a question or two otherwise. The margins
are those that the project has promised; `make bench-accuracy` has the whole picture.
"""

from __future__ import annotations

import pytest

from prunevid_qwen.evaluation.shapes.accuracy import accuracy_run
from prunevid_qwen.evaluation.shapes.accuracy_summary import CellName, paired, read_answers
from prunevid_qwen.evaluation.shapes.methods import AccuracyRun, Method, methods_called
from prunevid_qwen.evaluation.shapes.videos import FIRST_SEED

BUDGET = 0.16
CONDITIONS = ("plain", "clutter")
VIDEOS = 32
SEEDS_FROM = FIRST_SEED + 500_000  # not the report's videos: what is tuned on those is judged on these

RANDOM = Method("random", {**methods_called(["random"])[0].options, "cluster_ratio": 0.2}, levers=())
"""Given a fifth of the tokens, so that what it is led by owes nothing to videos heavier than the fitted ones."""

ABOVE_RANDOM, BELOW_UNPRUNED = 0.10, 0.03


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ordering")
    methods = (*methods_called(["unpruned", "prunevid", "recommended"]), RANDOM)
    asked = {"random_seeds": 2, "calibration_videos": 16}
    run = AccuracyRun(methods, (BUDGET,), CONDITIONS, videos=VIDEOS, first_seed=SEEDS_FROM, **asked)
    accuracy_run(folder, run, worker_count=1)
    return read_answers(folder)


def column(answers, method):
    return answers[CellName(method, None if method in ("unpruned", "random") else BUDGET)]


def lead(answers, method, other):
    ours, theirs = column(answers, method), column(answers, other)
    found = paired(ours, theirs)
    assert found["n"] == len(ours) == len(theirs) >= 8 * VIDEOS and found["videos"] == VIDEOS, "asked everything"
    return found


def test_random_has_the_most_tokens(answers):
    for method in ("prunevid", "recommended"):  # fitted on other videos: how much stands still differs
        ours, of_random = lead(answers, method, "random")["tokens"]
        assert ours == pytest.approx(BUDGET, rel=0.2) and ours <= of_random


def test_prunevid_beats_random_by_ten_points(answers):
    found = lead(answers, "prunevid", "random")
    assert found["difference"] >= ABOVE_RANDOM, f"at {BUDGET:.0%} of the tokens prunevid leads random at 20% by {found}"


def test_recommended_beats_random_by_ten_points(answers):
    found = lead(answers, "recommended", "random")
    assert found["difference"] >= ABOVE_RANDOM, (
        f"at {BUDGET:.0%} of the tokens recommended leads random at 20% by {found}"
    )


def test_recommended_loses_at_most_three_points(answers):
    """The paper's method does not keep this promise: fitted to 16 %, prunevid loses 5 to 6 points on these videos.

    Most of that it loses to its depth: layers 0 to M run at stage 1's count, and three of eight layers leave little to
    the question. `docs/choices.md` has the figures; `recommended` is what came of them.
    """
    found = lead(answers, "recommended", "unpruned")
    assert found["difference"] >= -BELOW_UNPRUNED, (
        f"at {BUDGET:.0%} of the tokens recommended is at {found} against unpruned"
    )
