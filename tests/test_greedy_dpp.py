"""The greedy set, however it is found: each choice against gains that a plain loop computes in fp64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from prunevid_qwen.forward.hooks import pruned
from prunevid_qwen.forward.plan import Plan, Step
from prunevid_qwen.kernels import greedy_dpp as kernel
from prunevid_qwen.kernels import lazy_greedy
from prunevid_qwen.kernels.eager_greedy import EXHAUSTED, NEAR
from prunevid_qwen.kernels.greedy_dpp import greedy_dpp, greedy_sets
from prunevid_qwen.needs import Evidence
from prunevid_qwen.stage2_select import DPP
from prunevid_qwen.tokens import TokenMap
from tests.models import ONE_VIDEO, make_inputs, tiny_model
from tests.test_dpp import draw, evidence

ROUNDING = 1e-9  # of a gain's logarithm: more than fp64 loses, a thousandth of what counts as equal


def breaks_the_law(log_q: Tensor, x: Tensor, chosen: list[int]) -> str:
    """Say at which choice another point had to be taken: "" where each has the lowest index of the best gains.

    Gains by orthogonal projection, each point after the other, and no kernel of ours.
    """
    unit = torch.nn.functional.normalize(x.double(), dim=1).numpy()
    rest, some = unit.copy(), unit.any(axis=1)
    gain = 2 * log_q.double().clamp(min=-1e4).numpy()
    for step, best in enumerate(chosen):
        variance = np.where(some, (rest**2).sum(axis=1), 1.0)
        gains = gain + np.log(np.maximum(variance, EXHAUSTED))
        lower = gains.max() - NEAR
        if not gains[best] >= lower - ROUNDING:
            return f"choice {step}: {best} has {gains[best]}, {gains.argmax()} has {gains.max()}"
        first = int((gains >= lower + ROUNDING).argmax())
        if first < best:
            return f"choice {step}: {best}, but {first} is as good"
        gain[best] = -np.inf
        if variance[best] > EXHAUSTED and some[best]:
            vector = rest[best] / np.linalg.norm(rest[best])
            for _ in range(2):
                rest -= np.outer(rest @ vector, vector)
    return "" if len(set(chosen)) == len(chosen) else "one is chosen twice"


def clustered(size: int, copies: int, width: int, noise: float) -> Tensor:
    return draw(-(-size // copies), width, seed=5).repeat_interleave(copies, dim=0)[:size] + noise * draw(size, width)


def with_zeros(x: Tensor) -> Tensor:
    x[::7] = 0.0
    return x


N = 300
CASES: dict[str, Callable[[], tuple[Tensor, Tensor]]] = {
    "wide qualities": lambda: (3 * draw(N, seed=1), draw(N, 48)),
    "narrow qualities": lambda: (0.01 * draw(N, seed=1), draw(N, 48)),
    "equal qualities": lambda: (torch.zeros(N), draw(N, 48)),
    "more width than points": lambda: (draw(N, seed=1), draw(N, 400)),
    "rank 5": lambda: (draw(N, seed=1), draw(N, 5) @ draw(5, 48, seed=2)),
    "copies": lambda: (draw(N // 3, seed=1).repeat(3), draw(N // 3, 48).repeat(3, 1)),
    "copies of equal quality": lambda: (torch.zeros(N), draw(N // 10, 48).repeat(10, 1)),
    "nearly copies": lambda: (draw(N // 10, seed=1).repeat_interleave(10), clustered(N, 10, 48, 0.02)),
    "copies to rounding": lambda: (torch.zeros(N), clustered(N, 10, 48, 1e-7)),
    "copies that are worth more than others": lambda: (
        20 * draw(N // 10, seed=1).repeat_interleave(10),
        clustered(N, 10, 48, 0.0),
    ),
    "zero vectors": lambda: (draw(N, seed=1), with_zeros(draw(N, 48))),
    "nothing but zeros": lambda: (draw(N, seed=1), torch.zeros(N, 8)),
    "one direction": lambda: (draw(N, seed=1), draw(1, 8) * draw(N, 1).abs()),
    "axes": lambda: (torch.zeros(N), torch.eye(N)),
    "axes that share a part": lambda: (torch.zeros(N), torch.eye(N) + 0.05),
    "qualities equal to rounding": lambda: (1e-7 * draw(N, seed=1), torch.eye(N)),
    "qualities of nothing": lambda: (torch.full((N,), -torch.inf).index_fill_(0, torch.arange(9), 0.0), draw(N, 48)),
    "a large common part": lambda: (draw(N, seed=1), draw(N, 48) + 10),
    "lengths far apart": lambda: (draw(N, seed=1), draw(N, 48) * (5 * draw(N, 1, seed=3)).exp()),
}


@pytest.fixture(params=["as it is", "small rounds", "eager"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """In how many rounds a group falls: as by default, in many, or with all points brought up to date each time."""
    if request.param == "small rounds":
        for name, value in (("CANDIDATES", 8), ("SURE", 2), ("_LOOKED_AT", 8), ("_AT_LEAST", 0)):
            monkeypatch.setattr(lazy_greedy, name, value)
    if request.param == "eager":
        monkeypatch.setattr(kernel, "_FEW", 10**9)
    return str(request.param)


@pytest.mark.parametrize("case", CASES)
def test_each_choice_has_the_best_gain_and_of_equal_ones_the_lowest_index(case: str, way: str) -> None:
    log_q, x = CASES[case]()
    assert breaks_the_law(log_q, x, greedy_dpp(log_q, x, 160).tolist()) == ""


@pytest.mark.parametrize("seed", range(12))
def test_random_groups_of_every_kind(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = torch.Generator().manual_seed(100 + seed)
    ends = ((2, 200), (1, 60), (1, 9), (1, 40))
    n, width, copies, candidates = (int(torch.randint(*each, (), generator=numbers)) for each in ends)  # type: ignore[call-overload]
    for name, value in (("CANDIDATES", candidates), ("SURE", max(1, candidates // 4)), ("_LOOKED_AT", candidates)):
        monkeypatch.setattr(lazy_greedy, name, value)
    monkeypatch.setattr(kernel, "_FEW", 0)
    x = clustered(n, copies, width, [0.0, 1e-3, 0.3][seed % 3])
    log_q = [0.0, 0.01, 2.0, 30.0][seed % 4] * draw(n, seed=seed)
    assert breaks_the_law(log_q, x, greedy_dpp(log_q, x, n).tolist()) == ""


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_choices_are_those_of_fp64_whatever_the_dtype(dtype: torch.dtype, way: str) -> None:
    log_q, x = draw(N, seed=1).to(dtype), draw(N, 48).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        found = greedy_dpp(log_q, x, 100)
    assert torch.equal(found, greedy_dpp(log_q.double(), x.double(), 100)) and found.dtype == torch.int64


def test_what_is_given_is_left_as_it_is(way: str) -> None:
    log_q, x = draw(N, seed=1).double(), torch.nn.functional.normalize(draw(N, 48).double(), dim=1)
    before = log_q.clone(), x.clone()
    greedy_dpp(log_q, x, 100)
    assert torch.equal(log_q, before[0]) and torch.equal(x, before[1])


def test_large_groups_with_padding_are_chosen_from_as_if_alone(way: str) -> None:
    log_q, x = draw(3, N, seed=1), draw(3, N, 24)
    valid = torch.rand(3, N, generator=torch.Generator().manual_seed(4)) < torch.tensor([1.0, 0.7, 0.1])[:, None]
    together = greedy_dpp(log_q, x, 60, valid)
    for own, points, quality, group in zip(valid, x, log_q, together, strict=True):
        there = own.nonzero()[:, 0]
        alone = there[greedy_dpp(quality[own], points[own], min(60, len(there)))]
        assert torch.equal(group[: len(alone)], alone)
        assert len(set(group.tolist())) == 60, "padding follows, each once"


def test_videos_of_their_own_sizes_are_chosen_from_at_once_as_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, counts = (40, 31, 9, 40, 70), (20, 31, 1, 3, 69)
    quality, points = ([draw(n, *width, seed=i) for i, n in enumerate(sizes)] for width in ((), (24,)))  # type: ignore[misc]
    alone = [greedy_dpp(q, x, count) for q, x, count in zip(quality, points, counts, strict=True)]
    calls: list[int] = []
    real, alike = kernel.greedy_dpp, kernel._alike
    monkeypatch.setattr(kernel, "greedy_dpp", lambda q, *args: calls.append(q.dim()) or real(q, *args))  # type: ignore[func-returns-value]
    for launches in (5, 3):  # on a CPU; where 120 points are held: 70, then 40, 40 and 31, then 9
        calls.clear()
        found = greedy_sets(quality, points, counts)
        assert all(torch.equal(a, b) for a, b in zip(found, alone, strict=True))
        assert calls.count(2) == launches
        monkeypatch.setattr(kernel, "_alike", lambda sizes, most: alike(sizes, 120))


def test_samples_of_a_batch_are_decided_as_alone() -> None:
    seen = [evidence(draw(n, 16, seed=n), draw(n, seed=9), *sizes) for n, sizes in ((30, (20, 10)), (12, (12,)))]
    together = DPP(0.3).plan_together(seen)
    assert [each.rep.tolist() for each in together] == [DPP(0.3).plan(each).rep.tolist() for each in seen]


class First(DPP):
    """Has a `plan` of its own, and what its parent decides together is not asked for."""

    def plan(self, seen: Evidence) -> TokenMap:
        return TokenMap.keep(torch.arange(3), seen.layout.visual.numel())


@pytest.mark.parametrize("method", [DPP, First])
def test_a_batch_is_decided_in_one_call(monkeypatch: pytest.MonkeyPatch, method: type[DPP]) -> None:
    calls: list[int] = []
    real = DPP.plan_together
    monkeypatch.setattr(DPP, "plan_together", lambda self, seen: calls.append(len(seen)) or real(self, seen))  # type: ignore[func-returns-value]
    model, inputs = tiny_model(), make_inputs(ONE_VIDEO * 3)
    with pruned(model, Plan((Step(2, method(0.4)),))) as trace, torch.no_grad():
        model(**inputs)
    kept = [sample.reductions[0].map.rep.tolist() for sample in trace.samples]
    assert calls == ([3] if method is DPP else []) and len(kept) == 3
    assert all(len(own) > 3 for own in kept) == (method is DPP)
