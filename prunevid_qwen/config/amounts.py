"""Shares as counts, and how shares and sizes are written.

What differs does not read the same, and a part reads neither as 0 nor as all.
"""

from __future__ import annotations

from prunevid_qwen.config.option_checks import check_share

_UNITS = ("B", "KiB", "MiB", "GiB")
_NOTHING = 1e-9  # per cent; closer than that to 0 or 100 is rounding of the arithmetic
_MOST_DIGITS = 12


def count_of(size: int, share: float, count: int | None = None) -> int:
    """Turn a budget into a count: a share of ``size`` rounded down, at least 1; or ``count``, at most ``size``.

    Args:
        size: how many there are.
        share: in (0, 1]; read where there is no count.
        count: wanted instead of a share, at least 1, or None.

    Raises:
        ConfigError: the share is out of its range.

    >>> count_of(10, 0.35), count_of(2, 0.1), count_of(10, 0.5, 7), count_of(10, 0.5, 12)
    (3, 1, 7, 10)
    """
    check_share("a budget", share)
    return max(1, int(size * share)) if count is None else min(size, count)


def percent(share: float, digits: int = 0) -> str:
    """Write a share in per cent, with more digits where it would round to 0 % or 100 % and is neither.

    Args:
        share: of 1; it may be negative or above 1.
        digits: behind the point, where they are enough.

    >>> percent(0.31), percent(0.004), percent(0.99996), percent(0.0), percent(0.4567, 1)
    ('31 %', '0.4 %', '99.996 %', '0 %', '45.7 %')
    """
    points = 100 * share
    gap = min(abs(points), abs(100 - points))
    if _NOTHING < gap < 1:
        digits = max(digits, 1)
        while round(gap, digits) == 0:
            digits += 1
    return f"{points:.{digits}f} %"


def size(count: float) -> str:
    """Write a number of bytes.

    >>> size(512), size(23552), size(3 * 2**30)
    ('512 B', '23.0 KiB', '3.00 GiB')
    """
    return _written(count, 1)


def sizes(*counts: float) -> tuple[str, ...]:
    """Write numbers of bytes that are read side by side: those that differ get the digits to differ in.

    >>> sizes(1240000, 1300235)
    ('1.18 MiB', '1.24 MiB')
    """
    for digits in range(1, _MOST_DIGITS):
        said = tuple(_written(count, digits) for count in counts)
        if len(set(said)) == len(set(counts)):
            break
    return said


def _written(count: float, digits: int) -> str:
    for unit in _UNITS:
        behind = {"B": 0, "GiB": digits + 1}.get(unit, digits)
        if abs(round(count, behind)) < 1024 or unit == _UNITS[-1]:
            break
        count /= 1024
    return f"{count:.{behind}f} {unit}"
