"""The accuracy benchmark in small, on fixed videos: goes red when a method gets worse or the controls get too good.

Ordering with a margin, not exact figures: other releases of torch may answer a question or two otherwise. The margins
are those that the project has promised; `make bench-accuracy` has the whole picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from prunevid_qwen.evaluation.shapes.accuracy import accuracy_run
from prunevid_qwen.evaluation.shapes.accuracy_summary import CellName, paired, read_answers
from prunevid_qwen.evaluation.shapes.methods import AccuracyRun, Method, methods_called
from prunevid_qwen.evaluation.shapes.videos import FIRST_SEED

BUDGET = 0.16
SEEDS_FROM = FIRST_SEED + 500_000  # not the report's videos: what is tuned on those is judged on these

RANDOM = Method("random", {**methods_called(["random"])[0].options, "cluster_ratio": 0.2}, levers=())
"""Given a fifth of the tokens, so that what it is led by owes nothing to videos heavier than the fitted ones."""

ABOVE_RANDOM = 0.10


@dataclass(frozen=True)
class Toy:
    """One bundled toy, and how much of it there is time for.

    Args:
        name: as ``--model_path`` takes it.
        conditions: kinds of video.
        videos: how many.
        random_seeds: draws of the control.
        calibration_videos: of each kind.
        below_unpruned: points that ``recommended`` may lose, as a share of 1; few videos leave more to chance.
    """

    name: str
    conditions: tuple[str, ...]
    videos: int
    random_seeds: int
    calibration_videos: int
    below_unpruned: float


TOYS = (
    Toy("bundled", ("plain", "clutter"), 24, 2, 8, 0.03),
    Toy("bundled-qwen3vl", ("plain",), 8, 1, 4, 0.06),
)


ASKED = [pytest.param(TOYS[0], id=TOYS[0].name, marks=pytest.mark.nightly), pytest.param(TOYS[1], id=TOYS[1].name)]


@pytest.fixture(scope="module", params=ASKED)
def toy(request):
    return request.param


@pytest.fixture(scope="module")
def answers(toy, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ordering")
    methods = (*methods_called(["unpruned", "prunevid", "recommended"]), RANDOM)
    asked = {"random_seeds": toy.random_seeds, "calibration_videos": toy.calibration_videos, "model": toy.name}
    run = AccuracyRun(methods, (BUDGET,), toy.conditions, videos=toy.videos, first_seed=SEEDS_FROM, **asked)
    accuracy_run(folder, run, worker_count=1)
    return read_answers(folder)


def column(answers, method):
    return answers[CellName(method, None if method in ("unpruned", "random") else BUDGET)]


def lead(toy, answers, method, other):
    ours, theirs = column(answers, method), column(answers, other)
    found = paired(ours, theirs)
    assert found["n"] == len(ours) == len(theirs) >= 8 * toy.videos and found["videos"] == toy.videos, (
        "asked everything"
    )
    return found


def test_random_has_the_most_tokens(toy, answers):
    for method in ("prunevid", "recommended"):  # fitted on other videos: how much stands still differs
        ours, of_random = lead(toy, answers, method, "random")["tokens"]
        assert ours == pytest.approx(BUDGET, rel=0.2) and ours <= of_random


def test_prunevid_beats_random_by_ten_points(toy, answers):
    found = lead(toy, answers, "prunevid", "random")
    assert found["difference"] >= ABOVE_RANDOM, f"at {BUDGET:.0%} of the tokens prunevid leads random at 20% by {found}"


def test_recommended_beats_random_by_ten_points(toy, answers):
    found = lead(toy, answers, "recommended", "random")
    assert found["difference"] >= ABOVE_RANDOM, (
        f"at {BUDGET:.0%} of the tokens recommended leads random at 20% by {found}"
    )


def test_recommended_loses_at_most_its_points(toy, answers):
    """Three points on the first toy. The paper's method does not keep this promise: prunevid loses 5 to 6 there.

    Most of that it loses to its depth: layers 0 to M run at stage 1's count, and three of eight layers leave little to
    the question. `docs/choices.md` has the figures; `recommended` is what came of them.
    """
    found = lead(toy, answers, "recommended", "unpruned")
    assert found["difference"] >= -toy.below_unpruned, (
        f"at {BUDGET:.0%} of the tokens recommended is at {found} against unpruned"
    )
