"""Our scorer of multiple-choice answers, and two scores of free answers that need no judge.

`ours` has ordered rules, the first that applies decides; what none reads is unparsed: wrong, and never random. Before:
Unicode compatibility forms (a full-width C is a C), thoughts in ``<think>`` (all, where they never end), the prefill
where a model repeats it, markdown and ``\\boxed{}`` are taken out. Letters are those of the options there are.

1. "letter": nothing but a letter, in any case, with brackets, a dot or a colon, or "option C", "Best answer C". If
   that bare letter is also another option's whole text ("c" where option A reads "c"), it is ambiguous.
2. "leading": a line begins "(C) ", "C. ", "C) " or "C: "; lines that begin with different letters are ambiguous.
3. "said": "answer", "option" or "choice", then "is" or ":", then a letter; an "A" before a lower-case word is none.
4. "bracketed": one upper-case letter, and no other, stands in brackets outside the options' own texts.
5. "text": one option's text stands in it as whole words, and no other's (the longest counts where one holds another).

A letter in a sentence ("C or A", "I think it is B because A is wrong") is not read: every way of guessing errs often.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from prunevid_qwen.evaluation.datasets.record import LETTERS

_THOUGHT = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL | re.IGNORECASE)
_BOXED = re.compile(r"\\(?:boxed|text|mathrm|mathbf)\s*\{([^{}]*)\}")
_MARKS = re.compile(r"[*`$]|^[#>\s]+|(?<!\w)_+|_+(?!\w)", re.MULTILINE)

_NAMED = r"(?:the\s+)?(?:(?:best|correct|right|my|final)\s+)?(?:answer|option|choice)"
_BARE = re.compile(rf"(?:{_NAMED}\s+)?[(\[]?\s*([a-z])\s*[)\]]?[.:,]?", re.IGNORECASE)
_LEADING = re.compile(r"^\s*(?:[(\[]([a-z])[)\]]|([a-z])[.):])(?=\s|$)", re.IGNORECASE | re.MULTILINE)
_SAID = re.compile(
    r"\b(?:answer|option|choice)\s*(?:is\s*:?|:)\s*(?:(?:the\s+)?(?:option|choice)\s+)?"
    r"(?:[(\[]\s*(?P<in>[a-z])\s*[)\]]|[(\[]?(?P<bare>[a-z])(?![\w']))(?P<after>\s+[a-z])?",
    re.IGNORECASE,
)
_BRACKETED = re.compile(r"[(\[]([A-Z])[)\]]")

_ARTICLES = ("a", "an", "the")
_AT_THE_ENDS = " \t\n.,;:!?\"'`*\u201c\u201d\u2018\u2019\u00ab\u00bb"  # typographic quotes too


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

    @property
    def lettered(self) -> dict[str, str]:
        """The options by letter."""
        return dict(zip(LETTERS, self.options, strict=False))


@dataclass(frozen=True)
class AnswerReading:
    """What a scorer reads in an answer, and what it then does with it."""

    accepted: str  # letters that it would count as right, each for itself: several where its test is loose, "" for none
    # "reads" those; "unparsed": wrong; "left_out" of the denominator; "random": draws an option, which we never do
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


def ours(output: Output) -> AnswerReading:
    """Read an answer by the rules above."""
    text, start = _THOUGHT.sub(" ", unicodedata.normalize("NFKC", output.raw)).strip(), output.prefill.strip()
    if start and text.casefold().startswith(start.casefold()):
        text = text[len(start) :]
    text = _MARKS.sub("", _BOXED.sub(r"\1", _BOXED.sub(r"\1", text))).strip()
    if not any(character.isalnum() for character in text):
        return AnswerReading("", "unparsed", "empty")
    for rule, read in _read(text, output):
        found = read & set(output.letters)
        if len(found) == 1:
            return AnswerReading(found.pop(), rule=rule)
        if found:
            return AnswerReading("", "unparsed", f"ambiguous {rule}")
    return AnswerReading("", "unparsed", "no rule")


def _read(text: str, output: Output) -> Iterator[tuple[str, set[str]]]:
    """Yield each rule, and the letters that it reads."""
    match = _BARE.fullmatch(text)
    same = {letter for letter, option in output.lettered.items() if option.strip() == text}
    yield "letter", same | {match[1].upper()} if match else set()
    yield "leading", {(match[1] or match[2]).upper() for match in _LEADING.finditer(text)}
    yield "said", {(m["in"] or m["bare"]).upper() for m in _SAID.finditer(text) if not _is_word(m)}
    bare = text
    for option in sorted(output.options, key=len, reverse=True):
        bare = bare.replace(option, " ") if _BRACKETED.search(option) else bare
    yield "bracketed", set(_BRACKETED.findall(bare))
    rest, found = normalised(text), set[str]()
    wanted = {letter: normalised(option) for letter, option in output.lettered.items()}
    for option in sorted(wanted.values(), key=len, reverse=True):
        if option and re.search(_whole(option), rest):
            found |= {letter for letter, same_text in wanted.items() if same_text == option}  # equal texts: two options
            rest = re.sub(_whole(option), " \N{REPLACEMENT CHARACTER} ", rest)
    yield "text", found


def _is_word(match: re.Match[str]) -> bool:
    return bool(match["bare"]) and match["bare"] in "AaIi" and (match["after"] or "").strip().islower()


def normalised(text: str) -> str:
    """Return a text without what two people would write differently: case, spaces, punctuation at the ends, articles.

    Unicode forms are NFKC. A text of articles alone keeps them: "A" may be the letter of an option.
    """
    words = unicodedata.normalize("NFKC", text).casefold().strip(_AT_THE_ENDS).split()
    return " ".join([word for word in words if word not in _ARTICLES] or words).strip(_AT_THE_ENDS)


def exact(answer: str, reference: str) -> bool:
    """Whether both are equal once normalised; an empty answer never is."""
    return bool(normalised(answer)) and normalised(answer) == normalised(reference)


def contained(answer: str, reference: str) -> bool:
    """Whether the normalised reference stands in the normalised answer as whole words; "5" is not in "3.5"."""
    wanted = normalised(reference)
    return bool(wanted) and re.search(_whole(wanted), normalised(answer)) is not None


def _whole(text: str) -> str:
    return rf"(?<!\w)(?<!\d[.,]){re.escape(text)}(?!\w)(?![.,]\d)"
