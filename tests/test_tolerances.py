"""The rule of tolerances: units in the last place of the largest number compared; choices where scores are apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.tolerances import CLOSE, apart, close, spacing, tokens_apart


@pytest.mark.parametrize("number", [1e-30, 0.7, 1.0, 1.5, 2.0, 9999.0])
def test_the_unit_is_the_distance_to_the_next_number(number: float) -> None:
    assert spacing(number, torch.float64) == np.spacing(number)
    single = np.float32(number)
    assert spacing(float(single), torch.float32) == np.spacing(single)
    assert spacing(0.0, torch.float32) == 0.0


@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("largest", [1e-3, 3.0, 2e4])
def test_a_tolerance_goes_with_the_largest_number(dtype: torch.dtype, largest: float) -> None:
    wanted = torch.tensor([0.0, -largest], dtype=dtype)
    unit = spacing(float(wanted.abs().max()), dtype)
    for units, right in ((CLOSE[dtype] - 1, True), (CLOSE[dtype] + 2, False)):
        got = (wanted.double() + torch.tensor([units * unit, 0.0], dtype=torch.float64)).to(dtype)
        if right:
            close(got, wanted)
        else:
            with pytest.raises(AssertionError):
                close(got, wanted)


def test_what_is_not_finite_has_to_be_the_same() -> None:
    some = torch.tensor([1.0, float("-inf")])
    close(some, some.clone())
    for other in (float("inf"), 0.0, float("nan")):
        with pytest.raises(AssertionError):
            close(some, torch.tensor([1.0, other]))
    with pytest.raises(AssertionError):
        close(torch.zeros(2), torch.tensor([0.0, 1e-30]))  # beside zeros, a number is a difference


def test_numbers_computed_in_fp32_may_be_held_in_fp64() -> None:
    got, wanted = torch.tensor([1.0 + 1e-6], dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    close(got, wanted, dtype=torch.float32)
    with pytest.raises(AssertionError):
        close(got, wanted)


def test_choices_are_compared_where_scores_are_apart() -> None:
    tokens_apart([torch.tensor([[0.0, 1.0, 3.0]])])
    near = torch.tensor([[0.0, 3.0, 3.0 - 1e-6]])
    with pytest.raises(AssertionError):
        tokens_apart([near])
    apart(lambda each: each.topk(2).indices.sort().values, near[0])  # the two together are apart from the third
