"""An upper bound of a rate from what was seen of it: right for any number of videos, and where no answer differed."""

from __future__ import annotations

import math
from collections.abc import Sequence

LEVEL = 0.95


def shown_below(values: Sequence[float], rate: float, level: float = LEVEL) -> bool:
    """Tell whether values show that their mean lies below a rate.

    A bet against "the mean is at least ``rate``" is placed on each value in turn, sized by those before it. If that
    sentence is true, the money seldom grows: to 1 / (1 - level) with a chance of at most 1 - level (Ville). So it is
    refuted where the money has grown so far. Nothing is assumed but that the values are drawn independently from one
    source and lie in [0, 1]: no normal distribution, no large number (Waudby-Smith and Ramdas, 2024, "Estimating means
    of bounded random variables by betting", theorem 3, the upper half alone).

    Args:
        values: in [0, 1], in an order that was fixed before they were seen.
        rate: in (0, 1).
        level: of confidence.
    """
    needed = math.log(1 / (1 - level))
    most, money = 1 / (1 - rate), 0.0  # a larger bet could lose everything; the money is its logarithm
    total, spread = 0.5, 0.25  # as if one value of 1/2 with a variance of 1/4 had been seen
    for number, value in enumerate(values, 1):
        bet = min(most, math.sqrt(2 * needed / (len(values) * spread / number)))
        left = 1 + bet * (rate - value)
        if left <= 0:
            return False
        money += math.log(left)
        if money >= needed:
            return True
        total += value
        spread += (value - total / (number + 1)) ** 2
    return False


def upper_bound(values: Sequence[float], level: float = LEVEL) -> float:
    """Return the smallest rate, to a thousandth, below which values show their mean to lie; 1 where they show none."""
    low, high = 0, 1000  # refuted at ``high``, or the whole range
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if shown_below(values, middle / 1000, level) else (middle, high)
    return high / 1000


def least_clusters(rate: float, level: float = LEVEL) -> int:
    """Return how many values show a rate where all of them are 0: fewer never do."""
    count = max(1, math.ceil(math.log(1 - level) / math.log(1 - rate)))
    while not shown_below([0.0] * count, rate, level):
        count += 1
    return count
