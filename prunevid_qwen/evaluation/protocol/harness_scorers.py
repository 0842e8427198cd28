"""What other harnesses' scorers say of an answer, odd behaviour included; nothing is ever drawn.

Those of lmms-eval were compared with 0.7.3's own functions, on the strings of the tests and on random ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from prunevid_qwen.config.option_checks import unknown
from prunevid_qwen.evaluation.datasets.dataset_layout import benchmark
from prunevid_qwen.evaluation.datasets.record import LETTERS
from prunevid_qwen.evaluation.protocol.scorers import AnswerReading, Output, ours
from prunevid_qwen.evaluation.yaml_data import build


def _one(letter: str, otherwise: str = "unparsed") -> AnswerReading:
    return AnswerReading(letter) if letter else AnswerReading("", otherwise)


def _first_capital(text: str, letters: str, removed: Iterable[str], otherwise: str) -> AnswerReading:
    for phrase in removed:
        text = text.replace(phrase, "")
    return _one(next((character for character in text if character in letters), ""), otherwise)


def mvbench(output: Output) -> AnswerReading:
    """VideoChat2's notebook for MVBench; VLMEvalKit's exact matching too.

    The first line's first word, lower-cased and without dots, inside "(c)", or "(c)" inside the word. An empty answer
    is inside everything: right whatever the truth. A "(" with which the prompt began the answer is put back first.
    """
    return _in_either_direction(_first_word(output), output)


def pllava(output: Output) -> AnswerReading:
    """PLLaVA's scorer, also PruneVid's: as VideoChat2's, but a word without any of a to g is wrong."""
    word = _first_word(output)
    return _in_either_direction(word, output) if set(word) & set("abcdefg") else AnswerReading("", "unparsed")


def _first_word(output: Output) -> str:
    line = output.raw.strip().split("\n")[0]
    return (("(" if output.prefill.endswith("(") else "") + line).lower().split(" ")[0]


def _in_either_direction(word: str, output: Output) -> AnswerReading:
    marks = {letter: f"({letter.lower()})" for letter in output.letters}
    return _one("".join(letter for letter, mark in marks.items() if word.replace(".", "") in mark or mark in word))


def videomme(output: Output) -> AnswerReading:
    """Video-MME's own script; VLMEvalKit's too: the first capital A to D, set phrases taken out before.

    Commas missing in their list fused "Best answer:" with "Best option:", so that "Best answer: C" is read as B. An
    answer without such a capital is not counted at all.
    """
    return _first_capital(output.raw, "ABCD", ("Best answer:Best option:", "Answer:"), "left_out")


def mlvu(output: Output) -> AnswerReading:
    """MLVU's multiple-choice script: the character before the first ")", or the whole answer, is the letter itself."""
    before, bracket, _ = output.raw.strip().partition(")")
    letter = before[-1:] if bracket else before
    return _one(letter if len(letter) == 1 and letter in LETTERS else "")


_REMOVED_OR_SPACE = ';/[]"{}()=+\\_-><@`,?!'
_OPTION_FIRST = re.compile(r"([A-E])\.\s*(.+)$", re.IGNORECASE)


def lmms_mvbench(output: Output) -> AnswerReading:
    """lmms-eval's mvbench: the first of A to E that stands alone, in any case, once punctuation is gone.

    So "A man" is A and "I'd say C" is D. Only an answer of "" leaves the denominator.
    """
    if output.raw == "":
        return AnswerReading("", "left_out")
    text = output.raw.strip()
    if first := _OPTION_FIRST.match(text):
        return _one(first[1].upper())
    bare = text = text.replace("\n", " ").replace("\t", " ")
    thousands = re.search(r"\d,\d", text) is not None
    for mark in _REMOVED_OR_SPACE:
        beside_space = f"{mark} " in text or f" {mark}" in text
        bare = bare.replace(mark, "" if beside_space or thousands else " ")
    bare = re.sub(r"\.(?!\d)", "", bare, count=32)  # a flag passed in the place of a count
    bare = bare.strip("'").strip('"').strip(")").strip("(").strip().lower()
    if alone := re.search(r"\b([A-E])\b", bare, re.IGNORECASE):
        return _one(alone[1].upper())
    return _one(bare.upper() if len(bare) == 1 and bare.upper() in LETTERS else "")


_PHRASES = (
    *(f"{which}answer is" for which in ("", "the ", "the correct ", "correct ", "the best ", "best ", "my ")),
    *(f"{which}option is" for which in ("the correct ", "correct ", "the best ", "best ")),
    *(f"{which}choice is" for which in ("", "the ", "the correct ", "correct ", "my ")),
    *("i choose", "i select", "i pick"),
    *("옵션", "정답은", "답은", "답:", "答案是", "答案为", "选", "答えは"),
)
_WAYS = {"({})": 6, "{}.": 5, "{}:": 4, "{})": 3, "{} ": 2}  # how strongly lmms-eval believes each
_START, _END, _PHRASE, _ANYWHERE = 10, 9, 7, 0


def _stripped(text: str, marks: str = ",.!?;:'") -> str:
    for mark in marks:
        text = text.strip(mark)
    return f" {text} "


def lmms_abcd(output: Output) -> AnswerReading:
    """lmms-eval's extract_mcq_answer with A to D: videomme and mlvu, where no letter is wrong.

    Capitals alone. Every way of writing a letter has a rank, "starts with it" the highest, "in a word" the lowest; the
    highest decides and, within it, what stands last: "Both A and C" is C.
    """
    letters, text = "ABCD", _stripped(output.raw.strip(), ",.!?;:'\"")
    bare = text.strip()
    found = [(rank, text.rfind(way.format(letter)), letter) for way, rank in _WAYS.items() for letter in letters]
    for phrase in _PHRASES:
        at = text.lower().find(phrase)
        if at >= 0:
            found += [(_PHRASE, text.find(letter, at + len(phrase)), letter) for letter in letters]
    for letter in letters:
        if bare.startswith(letter) and not bare[1:2].isalpha():
            found.append((_START, 0, letter))
        if bare.endswith(letter) and not bare[-2:-1].isalpha():
            found.append((_END, len(text) - 1, letter))
    found = [each for each in found if each[1] >= 0]
    found = found or [(_ANYWHERE, text.rfind(letter), letter) for letter in letters if letter in text]
    # of equals the one that was looked for first
    return _one(max(found, key=lambda each: each[:2])[2] if found else "")


def lmms_egoschema(output: Output) -> AnswerReading:
    """lmms-eval's egoschema (MMMU's parser): "(C)", "C " or "C."; of several, that whose last place is the first.

    Without one, an answer of more than five words may hold an option, its letter included. Otherwise it draws.
    """
    text = _stripped(output.raw)
    found = [(text.rfind(way.format(each)), each) for way in ("({})", "{} ", "{}.") for each in "ABCDE"]
    if all(at < 0 for at, _ in found) and len(text.split()) > 5:
        options = {letter: f"{letter}. {option}".lower() for letter, option in output.lettered.items()}
        found = [(text.lower().rfind(option), letter) for letter, option in options.items()]
    there = [each for each in found if each[0] >= 0]
    return _one(min(there, key=lambda each: each[0])[1] if there else "", "random")


def lmms_nextqa(output: Output) -> AnswerReading:
    """lmms-eval's nextqa (MMMU's parser, mended): of several letters or texts, that whose last place is the last.

    A letter counts at "(C)", else " C ", whatever form it was found in. Otherwise it draws.
    """
    text, letters = _stripped(output.raw), "ABCDE"
    for form in ("({})", "{} ", "{}."):
        if found := [letter for letter in letters if form.format(letter) in text]:
            at = "({})" if form == "({})" else " {} "
            return AnswerReading(max(found, key=lambda letter: text.rfind(at.format(letter))))
    texts = {letter: option.lower() for letter, option in output.lettered.items() if letter in letters}
    found = [letter for letter, option in texts.items() if option in text.lower()] if len(text.split()) > 5 else []
    return _one(max(found, key=lambda letter: text.lower().rfind(texts[letter])) if found else "", "random")


def lmms_tempcompass(output: Output) -> AnswerReading:
    """lmms-eval's tempcompass_multi_choice, and the authors' own: "C", or an answer that begins "C." or "C)".

    Anything else goes to a language model there, which is not asked here: the answer is not counted.
    """
    first, after = output.raw[:1], output.raw[1:2]
    return _one(first if first and first in "ABCD" and after in ("", ".", ")") else "", "left_out")


_LVB_PREFIXES = (
    *(f"The {which} is" for which in ("best answer", "correct answer", "answer")),
    "The answer",
    *(f"The {which} option is" for which in ("best", "correct")),
    "Best answer:",
    "Best option:",
)


def lmms_longvideobench(output: Output) -> AnswerReading:
    """lmms-eval's longvideobench: the first capital A to E once set phrases are gone, else it draws."""
    return _first_capital(output.raw, "ABCDE", _LVB_PREFIXES, "random")


SCORERS: Mapping[str, Callable[[Output], AnswerReading]] = {
    **{each.__name__: each for each in (
        ours, mvbench, pllava, videomme, mlvu, lmms_mvbench, lmms_egoschema, lmms_longvideobench, lmms_nextqa,
        lmms_tempcompass,
    )},
    "lmms_videomme": lmms_abcd, "lmms_mlvu": lmms_abcd,
}  # fmt: skip
"""Every scorer by name."""


def columns_of(dataset: str) -> Mapping[str, str]:
    """Return the columns beside ours in a data set's tables -> scorer; a `ConfigError` says where one is unknown."""
    columns = {}
    for name, given in benchmark(dataset).scorers.items():
        scorer = build(given, str, f"scorer {name}")
        if scorer not in SCORERS:
            raise given.error(f"scorers, {name}: {unknown('a scorer is one of', scorer, SCORERS)}")
        columns[name] = scorer
    return columns
