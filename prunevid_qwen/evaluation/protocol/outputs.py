"""What a scorer makes of one stored answer: what came, and what it reads in it."""

from __future__ import annotations

from dataclasses import dataclass

from prunevid_qwen.evaluation.datasets.record import LETTERS


@dataclass(frozen=True)
class Output:
    """One stored answer to a multiple-choice question."""

    raw: str  # what the model generated, unchanged, without the prefill
    options: tuple[str, ...]  # their texts, without letters, at least one
    prefill: str = ""  # how the prompt began the answer

    @property
    def letters(self) -> str:
        """One letter for each option."""
        return LETTERS[: len(self.options)]


@dataclass(frozen=True)
class Reading:
    """What a scorer reads.

    ``then`` says what it does with the answer. "reads": as ``accepted`` says. "unparsed": wrong. "left_out": takes the
    question out of the denominator. "random": draws an option, which we never do.
    """

    accepted: str  # letters that it would count as right, each for itself: several where its test is loose, "" for none
    then: str = "reads"
    rule: str = ""  # which of our rules read it, or why none did; "" for other harnesses

    @property
    def letter(self) -> str | None:
        """The letter that was read, or None: unparsed, or every answer would pass."""
        return self.accepted if len(self.accepted) == 1 else None

    def score(self, answer: str | None, options: int) -> float | None:
        """Return what the scorer gives, in [0, 1]; a random draw counts as its expectation, 1 / options.

        None where the question is left out, or where ``answer`` (the right letter) is not known.
        """
        if answer is None or self.then == "left_out":
            return None
        return 1 / options if self.then == "random" else float(answer in self.accepted)


def only(letter: str, otherwise: str = "unparsed") -> Reading:
    """Return the reading of a scorer that finds one letter, or "" and then does ``otherwise``."""
    return Reading(letter) if letter else Reading("", otherwise)
