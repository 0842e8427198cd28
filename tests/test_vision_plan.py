"""`vision/plan.py` by its definition: place by place, cell by cell; and the options of a config that ask for it."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from prunevid_qwen import ConfigError, Plan, PruneVidConfig
from prunevid_qwen.config.media_reading import Reading
from prunevid_qwen.vision.options import VisionOptions, vision_options
from prunevid_qwen.vision.plan import PatchForm, change, last_encoded, plan_reuse, sources

FORM = PatchForm(14, 2, (0.26862954, 0.26130258, 0.27577711))
FORMS = (FORM, PatchForm(16, 2, (0.5, 0.5, 0.5)), PatchForm(14, 1, (0.5, 0.5, 0.5)), PatchForm(5, 1, (0.2, 0.3, 0.4)))
T, L, P = 6, 5, 4


def normalised(levels: Tensor, form: PatchForm = FORM) -> Tensor:
    """[..., 3, frames, side, side] grey levels -> [..., C] as a processor makes them, the mean left out."""
    std = torch.tensor(form.std) * 255.0
    return (levels.float() / std.view(3, 1, 1, 1)).flatten(-4)


def levels(*shape: int, form: PatchForm = FORM, seed: int = 0) -> Tensor:
    given = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (*shape, 3, form.frames, form.side, form.side), generator=given)


def change_by_loops(now: Tensor, before: Tensor, form: PatchForm) -> float:
    """Of one place, [P, 3, frames, side, side] grey levels."""
    side, worst = form.side // form.cells, 0.0
    for patch in range(len(now)):
        for frame in range(form.frames):
            for y in range(0, form.side, side):
                for x in range(0, form.side, side):
                    gap = (now - before)[patch, :, frame, y : y + side, x : x + side]
                    worst = max(worst, float(gap.double().abs().mean()))
    return worst


@pytest.mark.parametrize("form", FORMS, ids=lambda form: f"{form.side}x{form.frames}")
def test_the_change_is_the_mean_of_the_worst_cell(form: PatchForm) -> None:
    now, before = levels(3, P, form=form), levels(3, P, form=form, seed=1)
    now[0], now[1, 2, :, 0, :3, :3] = before[0], 255
    got = change(normalised(now, form), normalised(before, form), form)
    assert got.tolist() == pytest.approx([change_by_loops(a, b, form) for a, b in zip(now, before, strict=True)])
    assert got[0] == 0
    assert [each.cells for each in FORMS] == [2, 2, 2, 1]


def plan_by_loops(pixels: Tensor, threshold: float, before: Tensor | None) -> Tensor:
    """Of grey levels [T, L, P, 3, ...]."""
    encoded = torch.ones(pixels.shape[:2], dtype=torch.bool)
    for place in range(pixels.shape[1]):
        held = None if before is None else before[place]
        for number in range(len(pixels)):
            now = pixels[number, place]
            encoded[number, place] = held is None or change_by_loops(now, held, FORM) > threshold
            held = now if encoded[number, place] else held
    return encoded


def wandering(seed: int = 0) -> Tensor:
    """Places that change by 0 to 3 levels from position to position, [T, L, P, 3, ...]."""
    given = torch.Generator().manual_seed(seed)
    steps = torch.randint(-3, 4, (T, L, 1, 1, 1, 1, 1), generator=given)
    return levels(1, L, P) // 2 + 60 + steps.cumsum(0)


@pytest.mark.parametrize("threshold", [0, 1, 2.5, 4, 255])
@pytest.mark.parametrize("carried", [False, True])
def test_what_is_encoded(threshold: float, carried: bool) -> None:
    pixels = wandering()
    before = wandering(1)[-1] if carried else None
    given = None if before is None else normalised(before)
    got = plan_reuse(normalised(pixels), threshold, given, form=FORM)
    assert torch.equal(got, plan_by_loops(pixels, threshold, before))
    assert carried or bool(got[0].all())


def test_no_threshold_encodes_all_and_equal_pixels_are_encoded_once() -> None:
    pixels = normalised(levels(1, L, P)).expand(T, -1, -1, -1)
    assert bool(plan_reuse(pixels, None, form=FORM).all())
    assert plan_reuse(pixels, 0, form=FORM).sum(1).tolist() == [L, 0, 0, 0, 0, 0]


def test_any_cut_into_chunks_decides_the_same() -> None:
    pixels = normalised(wandering(2))
    whole = plan_reuse(pixels, 2.5, form=FORM)
    assert 0 < int(whole[1:].sum()) < whole[1:].numel()
    for cuts in ((3, 3), (1, 2, 3), (1,) * 6, (5, 1)):
        parts, before = [], None
        for part in pixels.split(cuts):
            parts.append(plan_reuse(part, 2.5, before, form=FORM))
            before = last_encoded(part, parts[-1], before)
        assert torch.equal(torch.cat(parts), whole), cuts
        assert before is not None
        assert torch.equal(before, last_encoded(pixels, whole, None))


def test_noise_below_the_threshold_and_a_dot() -> None:
    given = torch.Generator().manual_seed(0)
    pixels = (levels(1, L, P) // 2 + 60).repeat(T, 1, 1, 1, 1, 1, 1)
    pixels = pixels + torch.randint(-3, 4, pixels.shape, generator=given)  # two draws differ by 6 at most
    assert plan_reuse(normalised(pixels), 8, form=FORM).sum(1).tolist() == [L, 0, 0, 0, 0, 0]
    dotted = pixels.clone()
    dotted[3:, 2, 1, :, :, 2:5, 1:6] += 60  # 15 pixels of one cell, contrast 60: 18.4 levels
    encoded = plan_reuse(normalised(dotted), 8, form=FORM)
    assert encoded[1:].nonzero().tolist() == [[2, 2]]


def test_slow_change_does_not_drift_away() -> None:
    pixels = levels(1, 1, P) // 2 + torch.arange(30).view(30, 1, 1, 1, 1, 1, 1)
    encoded = plan_reuse(normalised(pixels), 8, form=FORM)[:, 0]
    assert encoded.nonzero()[:, 0].tolist() == [0, 9, 18, 27]


def test_sources_are_the_last_encoded() -> None:
    encoded = torch.tensor([[1, 0], [0, 0], [1, 1], [0, 0]], dtype=torch.bool)
    assert sources(encoded).tolist() == [[0, -1], [0, -1], [2, 2], [2, 2]]


def test_a_patch_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="1176"):
        plan_reuse(torch.zeros(1, 1, 4, 588), 8, form=FORM)


GIVEN = {"reuse_threshold": 8, "early_tau": 0.9, "early_block": 0.25, "reuse_identical": True}


def test_the_options_in_a_config() -> None:
    on = PruneVidConfig(**GIVEN)
    assert on.reading == Reading(**GIVEN) and on != PruneVidConfig()
    assert on == PruneVidConfig(**{f"reading.{name}": value for name, value in GIVEN.items()})
    assert on == PruneVidConfig().replace(**GIVEN)
    for again in (
        PruneVidConfig.from_dict(on.to_dict()), PruneVidConfig.from_record(on.flat()),
        PruneVidConfig.from_json(on.to_json()),
    ):  # fmt: skip
        assert again == on
    assert on.flat() == {**PruneVidConfig().flat(), **{f"reading.{name}": value for name, value in GIVEN.items()}}
    options = vision_options(on.reading)
    assert options == VisionOptions(**GIVEN) and options.reuses
    assert [options.early_index(4), VisionOptions(early_tau=0.9, early_block=3).early_index(4)] == [1, 3]
    assert not vision_options(Reading()) and VisionOptions().early_index(4) is None


WRONG = [
    {"reuse_threshold": -1}, {"reuse_threshold": 256}, {"reuse_threshold": "8"}, {"reuse_threshold": True},
    {"early_tau": 0.9}, {"early_block": 3}, {"early_tau": 0, "early_block": 1}, {"early_tau": 1.5, "early_block": 1},
    {"early_tau": 0.9, "early_block": -1}, {"early_tau": 0.9, "early_block": 1.0},
    {"early_tau": 0.9, "early_block": True}, {"reuse_identical": 1},
]  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG, ids=str)
@pytest.mark.parametrize("made", [Reading, VisionOptions, PruneVidConfig])
def test_values_out_of_range_are_refused(wrong: dict[str, object], made: Callable[..., object]) -> None:
    with pytest.raises(ConfigError, match="|".join(wrong)):
        made(**wrong)


def test_a_plan_has_them_too() -> None:
    assert Plan(vision=VisionOptions(reuse_threshold=8)).vision.reuse_threshold == 8
    with pytest.raises(ConfigError, match="vision"):
        Plan(vision={"reuse_threshold": 8})  # type: ignore[arg-type]
