"""Options and answers of every spelling become texts without letters, and a letter."""

from __future__ import annotations

import re
from collections.abc import Sequence

from prunevid_qwen.errors import ConfigError, quoted
from prunevid_qwen.evaluation.datasets.record import LETTERS

_LABEL = re.compile(r"\s*(?:\((?=[A-Z]\)))?([A-Z])[.:)]\s*")
_OPTION = re.compile(r"^\s*(?:\([A-Z]\)|[A-Z][.)]\s)", re.MULTILINE)


def without_letters(options: Sequence[str]) -> tuple[str, ...]:
    """Take "A. ", "(A) " or "A) " from options if all of them have their own; else they are returned as they are.

    One option that begins with "A. " is a text ("A. Lincoln"); four that begin with A, B, C and D are labelled.
    """
    labels = [_LABEL.match(option) for option in options]
    if [label and label[1] for label in labels] != list(LETTERS[: len(options)]):
        return tuple(options)
    return tuple(option[label.end() :] for option, label in zip(options, labels, strict=True) if label)


def question_and_options(text: str, where: str) -> tuple[str, tuple[str, ...]]:
    """Take apart a text whose lines begin with (A), (B) and so on, or with A. and B., from the first of them on."""
    starts = [match.start() for match in _OPTION.finditer(text)]
    lines = [text[begin:end].strip() for begin, end in zip(starts, [*starts[1:], None], strict=False)]
    options = without_letters(lines)
    if len(options) < 2 or options == tuple(lines):
        raise ConfigError(
            f"{where}: the text {quoted(text)} holds no options (A), (B) and so on or A., B., a line each: "
            "is this the benchmark's own file?"
        )
    return text[: starts[0]].strip(), options


def letter_of(
    answer: object, kind: str, options: Sequence[str], where: str, file: str = "the benchmark's YAML file"
) -> str:
    """Return the letter of an answer to a row's options, which are without letters.

    Args:
        kind: "letter": with or without brackets, or "B. its text"; "index": a position from 0; "text": an option's own,
            of equal options the first one's; ``file`` says it.

    Raises:
        ConfigError: it is none of the options.
    """
    letters, text, stripped = LETTERS[: len(options)], str(answer), [option.strip() for option in options]
    if kind == "index":
        expected, number = f"a number from 0 to {len(options) - 1}", text.strip()
        if number.isascii() and number.isdigit() and int(number) < len(options):
            return LETTERS[int(number)]
    elif kind == "text":
        expected = f"one of the options {quoted(list(options), 110)}"
        for among, wanted in ((list(options), text), (stripped, text.strip())):
            if wanted in among:
                return LETTERS[among.index(wanted)]
    else:
        expected, letter, label = f"one of {', '.join(letters)}", text.strip().strip("().:"), _LABEL.match(text)
        if len(letter) == 1 and letter in letters:
            return letter
        if label and label[1] in letters and stripped[LETTERS.index(label[1])] == text[label.end() :].strip():
            return label[1]
    raise ConfigError(
        f"{where}: the answer is {quoted(answer, 90)}, expected {expected}: the annotation file is damaged or was "
        f"edited, download it again; or say in {file} how it is written: answer: {{index: COLUMN}} (from 0), "
        "{letter: COLUMN} or {text: COLUMN}"
    )
