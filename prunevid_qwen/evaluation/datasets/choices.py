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


def letter_of(answer: object, kind: str, options: Sequence[str], where: str) -> str:
    """Return an answer's letter.

    Args:
        answer: as annotated.
        kind: "letter": with or without brackets, or "B. its text"; "index": a position from 0; "text": an option's own,
            of equal options the first one's.
        options: texts without letters.
        where: of the row, for the message.

    Raises:
        ConfigError: it is none of the options.
    """
    letters, text = LETTERS[: len(options)], str(answer)
    if kind == "index":
        expected = f"a number from 0 to {len(options) - 1}"
        if text.strip().isascii() and text.strip().isdigit() and int(text) < len(options):
            return LETTERS[int(text)]
    elif kind == "text":
        expected = f"one of the options {quoted(list(options), 110)}"
        stripped = [option.strip() for option in options]
        for among, wanted in ((list(options), text), (stripped, text.strip())):
            if wanted in among:
                return LETTERS[among.index(wanted)]
    else:
        expected = f"one of {', '.join(letters)}"
        bare = text.strip().strip("().:")
        if len(bare) == 1 and bare in letters:
            return bare
        label = _LABEL.match(text)
        if label and (label[1] or label[2]) in letters:
            letter = label[1] or label[2]
            if options[LETTERS.index(letter)].strip() == text[label.end() :].strip():
                return letter
    raise ConfigError(
        f"{where}: the answer is {quoted(answer, 90)}, expected {expected}: the annotation file is damaged or was "
        "edited, download it again"
    )
