"""`vision/agreement.py` by its definition: unit by unit, in Python; and the choice among what was counted."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from prunevid_qwen.evaluation.speed.vision_tuning import Candidates, hardest
from prunevid_qwen.vision.agreement import Agreement, Counts, Setting, total
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


def by_loops(pixels: Tensor, states: dict[int, Tensor], tokens: Tensor, setting: Setting) -> Counts:
    found = Counts(units=T * L)
    for place in range(L):
        held = copied = 0  # positions: whose pixels are compared, and whose token is taken
        for now in range(1, T):
            gap = float((pixels[now, place] - pixels[held, place]).abs().mean()) / LEVEL
            still = setting.threshold is not None and gap <= setting.threshold
            early = False
            if not still:
                held = now
                if setting.block is not None:
                    own = states[setting.block][:, place]
                    early = cosine(own[now], own[copied]) > setting.tau
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
    assert set(counted.counts) == {Setting(each) for each in THRESHOLDS} | {
        Setting(each, block, tau) for each in (None, *THRESHOLDS) for block in BLOCKS for tau in TAUS
    }
    expected = {setting: by_loops(pixels, states, tokens, setting) for setting in counted.counts}
    assert counted.counts == expected
    assert len({tuple(vars(each).values()) for each in expected.values()}) > 8, "the settings differ"
    agreed = [each for each in expected.values() if 0 < each.still_agreed < each.still]
    assert agreed and any(0 < each.early_agreed < each.early for each in expected.values())


def test_memory_is_that_of_what_may_still_be_copied() -> None:
    pixels, states, tokens = made()
    counted = Agreement(THRESHOLDS, BLOCKS, TAUS, TAU, FORM)
    for _ in range(4):
        counted.add(pixels, states, tokens)
    held = counted._held
    assert held is not None and len(held.tokens) <= L * len(counted.settings)
    assert {len(each) for each in held.states.values()} == {len(held.tokens)}


def test_counts_add_up_and_a_unit_saves_the_blocks_that_it_skips() -> None:
    one, other = Counts(10, 2, 1, 4, 3), Counts(30, 0, 0, 4, 1)
    setting = Setting(8.0, 1, 0.9)
    both = total([{setting: one}, {setting: other}])[setting]
    assert both == Counts(40, 2, 1, 8, 4)
    assert both.share == 0.25 and both.still_agreement == 0.5 and both.early_agreement == 0.5
    assert both.saved(setting, depth=8) == pytest.approx((2 + 8 * 6 / 8) / 40)
    assert Counts(10).still_agreement is None and Counts().share == 0 and Counts().saved(setting, 8) == 0


def counts(still: int, agreed: int, early: int = 0, early_agreed: int = 0) -> Counts:
    return Counts(1000, still, agreed, early, early_agreed)


@pytest.mark.parametrize(
    ("found", "chosen"),
    [
        ({Setting(2.0): counts(10, 10), Setting(8.0): counts(90, 90)}, Setting(8.0)),
        ({Setting(2.0): counts(100, 99), Setting(8.0): counts(900, 890)}, Setting(2.0)),  # 98.9 %
        ({Setting(2.0): counts(0, 0), Setting(8.0): counts(100, 90)}, Setting(None)),
        ({Setting(2.0): counts(0, 0), Setting(8.0): counts(0, 0)}, Setting(None)),
        (
            {
                Setting(8.0): counts(500, 500), Setting(8.0, 0, 0.9): counts(500, 500, 100, 98),
                Setting(8.0, 0, 0.98): counts(500, 500, 40, 40), Setting(8.0, 2, 0.9): counts(500, 500, 100, 100),
                Setting(None, 0, 0.9): counts(0, 0, 700, 700),
            },
            Setting(8.0, 0, 0.98),  # 40 units x 3 of 4 blocks are more than 100 x 1 of 4; 0.9 after block 0 disagrees
        ),
        (
            {Setting(8.0): counts(500, 500), Setting(8.0, 2, 0.9): counts(500, 500, 39, 39)},
            Setting(8.0),  # 39 units x 1 of 4 blocks: below 1 % of the work
        ),
        ({Setting(8.0): counts(0, 0), Setting(None, 0, 0.9): counts(0, 0, 700, 700)}, Setting(None, 0, 0.9)),
    ],
)  # fmt: skip
def test_the_hardest_that_agrees_is_chosen(found: dict[Setting, Counts], chosen: Setting) -> None:
    assert hardest(found, Candidates().agreement, depth=4) == chosen
