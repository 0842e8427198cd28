"""What a scorer makes of one stored answer: what came, and what it reads in it."""

from __future__ import annotations

import string
from dataclasses import dataclass

LETTERS = string.ascii_uppercase


@dataclass(frozen=True)
class Output:
    """One stored answer to a multiple-choice question.

    Args:
        raw: what the model generated, unchanged, without the prefill.
        options: texts of the options, without letters, at least one.
        prefill: how the prompt began the answer, or "".
    """

    raw: str
    options: tuple[str, ...]
    prefill: str = ""

    @property
    def letters(self) -> str:
        """One letter for each option."""
        return LETTERS[: len(self.options)]


@dataclass(frozen=True)
class Reading:
    """What a scorer reads.

    Args:
        accepted: letters that it would count as right, each for itself: one where it read a letter; several where its
            test is loose; "" where it counts no letter.
        then: what it does with the answer. "reads": as ``accepted`` says. "unparsed": wrong. "left_out": takes the
            question out of the denominator. "random": draws an option, which we never do.
        rule: which of our rules read it, or why none did; "" for other harnesses.
    """

    accepted: str
    then: str = "reads"
    rule: str = ""

    @property
    def letter(self) -> str | None:
        """The letter that was read, or None: unparsed, or every answer would pass."""
        return self.accepted if len(self.accepted) == 1 else None

    def score(self, answer: str | None, options: int) -> float | None:
        """Return what the scorer gives, in [0, 1]; a random draw counts as its expectation, 1 / options.

        Args:
            answer: the right letter, or None where the authors keep it.
            options: how many there are, at least 1.

        Returns:
            None where the question is left out, or its answer is not known.
        """
        if answer is None or self.then == "left_out":
            return None
        return 1 / options if self.then == "random" else float(answer in self.accepted)


def only(letter: str, otherwise: str = "unparsed") -> Reading:
    """Return the reading of a scorer that finds one letter, or "" and then does ``otherwise``."""
    return Reading(letter) if letter else Reading("", otherwise)
