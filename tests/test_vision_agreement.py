"""`vision/agreement.py` by its definition: unit by unit, in Python; and the choice among what was counted."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from prunevid_qwen.evaluation.speed.vision_candidates import Candidates
from prunevid_qwen.evaluation.speed.vision_tuning import hardest
from prunevid_qwen.vision.agreement import Agreement, Candidate, Counts, total
from prunevid_qwen.vision.plan import PatchForm

FORM = PatchForm(7, 1, (0.5, 0.5, 0.5))
T, L, P = 7, 5, 2
THRESHOLDS, BLOCKS, TAUS, TAU = (2.0, 8.0), (0, 2), (0.99, 0.9), 0.8
LEVEL = 1 / (0.5 * 255)


def made(seed: int = 0) -> tuple[Tensor, dict[int, Tensor], Tensor]:
    """Pixels, states and tokens of places that move by steps of many sizes: no two counts are the same by chance."""
    draw = torch.Generator().manual_seed(seed)

    def walk(width: int, sizes: Sequence[float]) -> Tensor:
        step = torch.randn(T, L, width, generator=draw)
        size = torch.tensor(sizes)[torch.randint(0, len(sizes), (T, L), generator=draw)]
        return torch.randn(1, L, width, generator=draw) + (step * size[..., None]).cumsum(0)

    shift = torch.tensor([0.0, 1.2, 4.1, 9.0])[torch.randint(0, 4, (T, L), generator=draw)].cumsum(0)
    pixels = (shift * LEVEL)[..., None, None].expand(T, L, P, FORM.size).contiguous()
    return pixels, {block: walk(6, (0.0, 0.1, 0.4)) for block in BLOCKS}, walk(8, (0.0, 0.3, 0.8))


def cosine(one: Tensor, other: Tensor) -> float:
    return float(one.double() @ other.double() / (one.double().norm() * other.double().norm()))


def by_loops(pixels: Tensor, states: dict[int, Tensor], tokens: Tensor, candidate: Candidate) -> Counts:
    found = Counts(units=T * L)
    for place in range(L):
        held = copied = 0  # positions: whose pixels are compared, and whose token is taken
        for now in range(1, T):
            gap = float((pixels[now, place] - pixels[held, place]).abs().mean()) / LEVEL
            still = candidate.threshold is not None and gap <= candidate.threshold
            early = False
            if not still:
                held = now
                if candidate.block is not None:
                    own = states[candidate.block][:, place]
                    early = cosine(own[now], own[copied]) > candidate.tau
            if not (still or early):
                copied = now
                continue
            agreed = cosine(tokens[now, place], tokens[copied, place]) > TAU
            found += Counts(0, int(still), int(still and agreed), int(early), int(early and agreed))
    return found


@pytest.mark.parametrize("cuts", [(T,), (1, 2, 4), (1,) * T], ids=str)
def test_every_setting_counts_what_its_definition_leaves_out(cuts: tuple[int, ...]) -> None:
    pixels, states, tokens = made()
    counted, at = Agreement(THRESHOLDS, BLOCKS, TAUS, TAU, FORM), 0
    for size in cuts:
        part = slice(at, at + size)
        counted.add(pixels[part], {block: each[part] for block, each in states.items()}, tokens[part])
        at += size
    assert counted.positions == T
    assert set(counted.counts) == {Candidate(each) for each in THRESHOLDS} | {
        Candidate(each, block, tau) for each in (None, *THRESHOLDS) for block in BLOCKS for tau in TAUS
    }
    expected = {candidate: by_loops(pixels, states, tokens, candidate) for candidate in counted.counts}
    assert counted.counts == expected
    assert len({tuple(vars(each).values()) for each in expected.values()}) > 8, "the candidates differ"
    agreed = [each for each in expected.values() if 0 < each.still_agreed < each.still]
    assert agreed and any(0 < each.early_agreed < each.early for each in expected.values())


def test_memory_is_that_of_what_may_still_be_copied() -> None:
    pixels, states, tokens = made()
    counted = Agreement(THRESHOLDS, BLOCKS, TAUS, TAU, FORM)
    for _ in range(4):
        counted.add(pixels, states, tokens)
    held = counted._held
    assert held is not None and len(held.tokens) <= L * len(counted.candidates)
    assert {len(each) for each in held.states.values()} == {len(held.tokens)}


def test_counts_add_up_and_a_unit_saves_the_blocks_that_it_skips() -> None:
    one, other = Counts(10, 2, 1, 4, 3), Counts(30, 0, 0, 4, 1)
    candidate = Candidate(8.0, 1, 0.9)
    both = total([{candidate: one}, {candidate: other}])[candidate]
    assert both == Counts(40, 2, 1, 8, 4)
    assert both.share == 0.25 and both.still_agreement == 0.5 and both.early_agreement == 0.5
    assert both.saved(candidate, depth=8) == pytest.approx((2 + 8 * 6 / 8) / 40)
    assert Counts(10).still_agreement is None and Counts().share == 0 and Counts().saved(candidate, 8) == 0


def counts(still: int, agreed: int, early: int = 0, early_agreed: int = 0) -> Counts:
    return Counts(10_000, still, agreed, early, early_agreed)


@pytest.mark.parametrize(
    ("found", "chosen"),
    [
        ({Candidate(2.0): counts(10, 10), Candidate(8.0): counts(90, 90)}, Candidate(8.0)),
        ({Candidate(2.0): counts(100, 99), Candidate(8.0): counts(900, 890)}, Candidate(2.0)),  # 98.9 %
        ({Candidate(2.0): counts(0, 0), Candidate(8.0): counts(100, 90)}, Candidate(None)),
        ({Candidate(2.0): counts(0, 0), Candidate(8.0): counts(0, 0)}, Candidate(None)),
        (
            {
                Candidate(8.0): counts(500, 500), Candidate(8.0, 0, 0.9): counts(500, 500, 1000, 980),
                Candidate(8.0, 0, 0.98): counts(500, 500, 400, 400), Candidate(None, 0, 0.9): counts(0, 0, 700, 700),
                Candidate(8.0, 2, 0.9): counts(500, 500, 1000, 1000),
            },
            Candidate(8.0, 0, 0.98),  # 400 x 3 of 4 blocks are more than 1,000 x 1 of 4; 0.9 after block 0 disagrees
        ),
        (
            {Candidate(8.0): counts(500, 500), Candidate(8.0, 2, 0.9): counts(500, 500, 390, 390)},
            Candidate(8.0),  # 390 units x 1 of 4 blocks: below 1 % of the work
        ),
        *(
            ({Candidate(8.0): Counts(900, 500, 500), Candidate(8.0, 0, 0.9): Counts(900, 500, 500, few, few)}, own)
            for few, own in ((99, Candidate(8.0)), (100, Candidate(8.0, 0, 0.9)))  # of a hundred one may disagree
        ),
        ({Candidate(8.0): counts(0, 0), Candidate(None, 0, 0.9): counts(0, 0, 700, 700)}, Candidate(None, 0, 0.9)),
    ],
)  # fmt: skip
def test_the_hardest_that_agrees_is_chosen(found: dict[Candidate, Counts], chosen: Candidate) -> None:
    assert hardest(found, Candidates().agreement, depth=4) == chosen
