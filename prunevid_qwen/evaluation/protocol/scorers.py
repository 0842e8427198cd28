"""Our scorer: ordered rules, the first that applies decides; what none reads is unparsed: wrong, and never random.

Before: Unicode compatibility forms (a full-width C is a C), thoughts in ``<think>`` (all, where they never end), the
prefill where a model repeats it, markdown and ``\\boxed{}`` are taken out. Letters are those of the options there are.

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
from collections.abc import Callable, Mapping
from types import MappingProxyType

from prunevid_qwen.config.option_checks import unknown
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.evaluation.datasets.layout import benchmark
from prunevid_qwen.evaluation.protocol import harness_scorers as harness
from prunevid_qwen.evaluation.protocol.free_answers import normalised
from prunevid_qwen.evaluation.protocol.outputs import LETTERS, Output, Reading

Scorer = Callable[[Output], Reading]

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
_ARTICLES = "AI"  # "A man ...", "I think ...": a letter and a word


def ours(output: Output) -> Reading:
    """Read an answer by the rules above."""
    text = _plain(output)
    if not any(character.isalnum() for character in text):
        return Reading("", "unparsed", "empty")
    for rule, find in (("letter", _bare), ("leading", _leading), ("said", _said), ("bracketed", _bracketed),
                       ("text", _by_text)):  # fmt: skip
        found = find(text, output)
        if len(found) == 1:
            return Reading(found.pop(), rule=rule)
        if found:
            return Reading("", "unparsed", f"ambiguous {rule}")
    return Reading("", "unparsed", "no rule")


def _plain(output: Output) -> str:
    text = _THOUGHT.sub(" ", unicodedata.normalize("NFKC", output.raw)).strip()
    start = output.prefill.strip()
    if start and text.casefold().startswith(start.casefold()):
        text = text[len(start) :]
    text = _BOXED.sub(r"\1", _BOXED.sub(r"\1", text))
    return _MARKS.sub("", text).strip()


def _known(letters: set[str], output: Output) -> set[str]:
    return letters & set(output.letters)


def _bare(text: str, output: Output) -> set[str]:
    match = _BARE.fullmatch(text)
    if not match:
        return set()
    found = _known({match[1].upper()}, output)
    same = {letter for letter, option in zip(LETTERS, output.options, strict=False) if option.strip() == text}
    return found | same


def _leading(text: str, output: Output) -> set[str]:
    return _known({(match[1] or match[2]).upper() for match in _LEADING.finditer(text)}, output)


def _said(text: str, output: Output) -> set[str]:
    found = set()
    for match in _SAID.finditer(text):
        letter = (match["in"] or match["bare"]).upper()
        article = match["bare"] and letter in _ARTICLES and match["after"] and match["after"].strip().islower()
        if not article:
            found.add(letter)
    return _known(found, output)


def _bracketed(text: str, output: Output) -> set[str]:
    for option in sorted(output.options, key=len, reverse=True):
        if _BRACKETED.search(option):
            text = text.replace(option, " ")
    return _known(set(_BRACKETED.findall(text)), output)


def _by_text(text: str, output: Output) -> set[str]:
    rest, found = normalised(text), set()
    wanted = [(normalised(option), letter) for letter, option in zip(LETTERS, output.options, strict=False)]
    for option, _ in sorted(wanted, key=lambda each: -len(each[0])):
        whole = rf"(?<!\w)(?<!\d[.,]){re.escape(option)}(?!\w)(?![.,]\d)"
        if option and re.search(whole, rest):
            found |= {other for same, other in wanted if same == option}  # equal texts are two options
            rest = re.sub(whole, " \N{REPLACEMENT CHARACTER} ", rest)
    return found


SCORERS: Mapping[str, Scorer] = MappingProxyType(
    {
        "ours": ours,
        "mvbench": harness.mvbench,
        "pllava": harness.pllava,
        "videomme": harness.videomme,
        "mlvu": harness.mlvu,
        "lmms_mvbench": harness.lmms_mvbench,
        "lmms_videomme": harness.lmms_abcd,
        "lmms_egoschema": harness.lmms_egoschema,
        "lmms_longvideobench": harness.lmms_longvideobench,
        "lmms_mlvu": harness.lmms_abcd,
        "lmms_nextqa": harness.lmms_nextqa,
        "lmms_tempcompass": harness.lmms_tempcompass,
    }
)
"""Every scorer by name."""


def columns_of(dataset: str) -> Mapping[str, str]:
    """Return the columns beside ours in a data set's tables -> scorer; "pllava" is what PruneVid scores with.

    Raises:
        ConfigError: its YAML file names a scorer that there is none of.
    """
    columns = benchmark(dataset).scorers
    for name, scorer in columns.items():
        if scorer not in SCORERS:
            raise ConfigError(f"{dataset}.yaml, scorers, {name}: {unknown('a scorer is one of', scorer, SCORERS)}")
    return columns
