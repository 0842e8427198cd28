"""Options and answers of every spelling become texts without letters, and a letter."""

from __future__ import annotations

import re
from collections.abc import Sequence

from prunevid_qwen.errors import ConfigError, quoted
from prunevid_qwen.evaluation.datasets.record import LETTERS

_LABEL = re.compile(r"\s*(?:\(([A-Z])\)|([A-Z])[.:)])\s*")


def without_letters(options: Sequence[str]) -> tuple[str, ...]:
    """Take "A. ", "(A) " or "A) " from options if all of them have their own; else they are returned as they are.

    One option that begins with "A. " is a text ("A. Lincoln"); four that begin with A, B, C and D are labelled.
    """
    labels = [_LABEL.match(option) for option in options]
    if [label and (label[1] or label[2]) for label in labels] != list(LETTERS[: len(options)]):
        return tuple(options)
    return tuple(option[label.end() :] for option, label in zip(options, labels, strict=True) if label)


def letter_of(text: str, options: Sequence[str], where: str) -> str:
    """Return the letter of an answer that is given as an option's text; of equal options, the first one's.

    Raises:
        ConfigError: it is none of the options.
    """
    for same in (lambda option: option == text, lambda option: option.strip() == text.strip()):
        for letter, option in zip(LETTERS, options, strict=False):
            if same(option):
                return letter
    raise ConfigError(
        f"{where}: the answer {quoted(text, 90)} is none of the options {quoted(list(options), 110)}: the "
        "annotation file is damaged or was edited, download it again"
    )


def letter_at(index: object, options: Sequence[str], where: str) -> str:
    """Return the letter of an answer that is given as a position from 0 (a number, or a string of one).

    Raises:
        ConfigError: there is no such option.
    """
    text = str(index).strip()
    if text.isascii() and text.isdigit() and int(text) < len(options):
        return LETTERS[int(text)]
    raise ConfigError(
        f"{where}: the answer is option number {quoted(index)}, expected 0 to {len(options) - 1}: "
        "download the annotation file again"
    )


def given_letter(letter: str, options: Sequence[str], where: str) -> str:
    """Return an answer that is given as a letter, with or without brackets, or as "B. its text".

    Raises:
        ConfigError: no option has it, or the text is another option's.
    """
    bare = letter.strip().strip("().:")
    if len(bare) == 1 and bare in LETTERS[: len(options)]:
        return bare
    if label := _LABEL.match(letter):
        named = label[1] or label[2]
        if letter_of(letter[label.end() :], options, where) == named:
            return named
    raise ConfigError(
        f"{where}: the answer is {quoted(letter)}, expected one of {', '.join(LETTERS[: len(options)])}: download the "
        "annotation file again"
    )
