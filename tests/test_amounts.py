"""How shares and sizes are written."""

from __future__ import annotations

import doctest

import pytest

from prunevid_qwen.config import amounts
from prunevid_qwen.config.amounts import percent, size, sizes


def test_the_examples() -> None:
    found = doctest.testmod(amounts)
    assert found.attempted and not found.failed


@pytest.mark.parametrize("digits", [0, 1, 2])
@pytest.mark.parametrize("exponent", range(1, 9))
def test_what_is_left_is_never_nothing_and_never_all(exponent: int, digits: int) -> None:
    little = 4 * 10.0**-exponent
    for share in (little, 1 - little, -little):
        points = float(percent(share, digits).removesuffix(" %"))
        assert points not in (0.0, 100.0)
        assert points == pytest.approx(100 * share, rel=0.51)


def test_nothing_and_all_are_whole_numbers() -> None:
    assert [percent(share) for share in (0, 0.0, 1, 1.0, 3 * (1 / 3), 0.1 * 3 - 0.3)] == ["0 %"] * 2 + ["100 %"] * 3 + [
        "0 %"
    ]


def test_sizes_that_differ_read_differently() -> None:
    whole = 1_300_235
    for saved in (1_205_862, whole - 1, whole - 100, whole // 2, 1, 0):
        first, second = sizes(saved, whole)
        assert first != second
    assert sizes(whole, whole) == (size(whole), size(whole))
    assert sizes(2**33 - 1, 2**33)[0] != sizes(2**33 - 1, 2**33)[1]


def test_no_unit_is_used_up_to_its_thousand() -> None:
    assert size(1023.99 * 1024) == "1.0 MiB"
    assert size(-2048) == "-2.0 KiB"
