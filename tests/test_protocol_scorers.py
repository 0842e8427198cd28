"""Every string of the specs (sections 1.4 and 7), with what each scorer reads in it. The truth, where asked, is C."""

from __future__ import annotations

import string
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prunevid_qwen.errors import ConfigError
from prunevid_qwen.evaluation.datasets import benchmark, names
from prunevid_qwen.evaluation.protocol import harness_scorers
from prunevid_qwen.evaluation.protocol.harness_scorers import SCORERS, columns_of
from prunevid_qwen.evaluation.protocol.protocol import protocol_for
from prunevid_qwen.evaluation.protocol.scorers import AnswerReading, Output, ours
from prunevid_qwen.evaluation.yaml_data import Marked

OPTIONS = ("opens the door", "holds the cup", "closes the door", "takes the phone")
LEFT_OUT, DRAWN, NOTHING, ALL = "left out", "drawn", "", "ABCD"
HARNESSES = (
    "mvbench", "pllava", "lmms_mvbench", "videomme", "lmms_videomme", "lmms_egoschema", "lmms_longvideobench", "mlvu",
    "lmms_nextqa", "lmms_tempcompass",
)  # fmt: skip

# string: ours, then what HARNESSES read: a letter, letters that all pass, "" (wrong), left out, or drawn
STRINGS: dict[str, tuple[str, ...]] = {
    "C": ("C", "C", "C", "C", "C", "C", "C", "C", "C", "C", "C"),
    "c": ("C", "C", "C", "C", LEFT_OUT, NOTHING, DRAWN, DRAWN, NOTHING, DRAWN, LEFT_OUT),
    "(C)": ("C", "C", "C", "C", "C", "C", "C", "C", "C", "C", LEFT_OUT),
    "(c": ("C", "C", "C", "C", LEFT_OUT, NOTHING, DRAWN, DRAWN, NOTHING, DRAWN, LEFT_OUT),
    "(c)": ("C", "C", "C", "C", LEFT_OUT, NOTHING, DRAWN, DRAWN, NOTHING, DRAWN, LEFT_OUT),
    "C.": ("C", "C", "C", "C", "C", "C", "C", "C", NOTHING, "C", "C"),
    "C)": ("C", "C", "C", "C", "C", "C", DRAWN, "C", "C", DRAWN, "C"),
    "C:": ("C", NOTHING, NOTHING, "C", "C", "C", "C", "C", NOTHING, "C", LEFT_OUT),
    "C. text": ("C", "C", "C", "C", "C", "C", "C", "C", NOTHING, "C", "C"),
    " C\n": ("C", "C", "C", "C", "C", "C", DRAWN, "C", "C", DRAWN, LEFT_OUT),
    "**C**": ("C", NOTHING, NOTHING, "C", "C", "C", DRAWN, "C", NOTHING, DRAWN, LEFT_OUT),
    "Answer: C": ("C", NOTHING, NOTHING, "C", "C", "C", "C", "A", NOTHING, "C", LEFT_OUT),
    "The answer is C.": ("C", NOTHING, NOTHING, "C", "C", "C", "C", "C", NOTHING, "C", LEFT_OUT),
    "Best option: (C)": ("C", NOTHING, NOTHING, "C", "B", "C", "C", "C", "C", "C", LEFT_OUT),
    "Best answer: C": ("C", NOTHING, NOTHING, "C", "B", "C", "C", "C", NOTHING, "C", LEFT_OUT),
    "Option C": ("C", NOTHING, NOTHING, "C", "C", "C", "C", "C", NOTHING, "C", LEFT_OUT),
    "Definitely C": (NOTHING, NOTHING, NOTHING, "C", "D", "C", "C", "D", NOTHING, "C", LEFT_OUT),
    "C or A": (NOTHING, "C", "C", "C", "C", "C", "C", "C", NOTHING, "A", LEFT_OUT),
    "Both A and C": (NOTHING, NOTHING, NOTHING, "A", "B", "C", "A", "B", NOTHING, "C", LEFT_OUT),
    "A man runs": (NOTHING, "A", "A", "A", "A", "A", "A", "A", NOTHING, "A", LEFT_OUT),
    "a dog": (NOTHING, "A", "A", "A", LEFT_OUT, NOTHING, DRAWN, DRAWN, NOTHING, DRAWN, LEFT_OUT),
    "I think it is B because A is wrong": (NOTHING, NOTHING, NOTHING, "B", "B", "A", "B", "B", NOTHING, "A", LEFT_OUT),
    "Closes The door": ("C", NOTHING, NOTHING, NOTHING, "C", "C", DRAWN, "C", NOTHING, DRAWN, LEFT_OUT),
    "closes the door": ("C", NOTHING, NOTHING, NOTHING, LEFT_OUT, NOTHING, DRAWN, DRAWN, NOTHING, DRAWN, LEFT_OUT),
    "closes the door.": ("C", NOTHING, NOTHING, NOTHING, LEFT_OUT, NOTHING, DRAWN, DRAWN, NOTHING, DRAWN, LEFT_OUT),
    "closes the door, holds the cup": (
        NOTHING,
        NOTHING,
        NOTHING,
        NOTHING,
        LEFT_OUT,
        NOTHING,
        DRAWN,
        DRAWN,
        NOTHING,
        "B",
        LEFT_OUT,
    ),
    "None": (NOTHING, NOTHING, NOTHING, NOTHING, LEFT_OUT, NOTHING, DRAWN, DRAWN, NOTHING, DRAWN, LEFT_OUT),
    "F": (NOTHING, NOTHING, NOTHING, "F", LEFT_OUT, NOTHING, DRAWN, DRAWN, "F", DRAWN, LEFT_OUT),
    "": (NOTHING, ALL, NOTHING, LEFT_OUT, LEFT_OUT, NOTHING, DRAWN, DRAWN, NOTHING, DRAWN, LEFT_OUT),
    " ": (NOTHING, ALL, NOTHING, NOTHING, LEFT_OUT, NOTHING, DRAWN, DRAWN, NOTHING, DRAWN, LEFT_OUT),
    ".": (NOTHING, ALL, NOTHING, NOTHING, LEFT_OUT, NOTHING, DRAWN, DRAWN, NOTHING, DRAWN, LEFT_OUT),
    "(": (NOTHING, ALL, NOTHING, NOTHING, LEFT_OUT, NOTHING, DRAWN, DRAWN, NOTHING, DRAWN, LEFT_OUT),
    "<think>A or B?</think>C": ("C", NOTHING, NOTHING, "A", "A", "C", "A", "A", NOTHING, "A", LEFT_OUT),
    r"\boxed{C}": ("C", NOTHING, NOTHING, "C", "C", "C", DRAWN, "C", NOTHING, DRAWN, LEFT_OUT),
    "\uff23": ("C", NOTHING, NOTHING, NOTHING, LEFT_OUT, NOTHING, DRAWN, DRAWN, NOTHING, DRAWN, LEFT_OUT),
    "E": (NOTHING, NOTHING, NOTHING, "E", LEFT_OUT, NOTHING, "E", "E", "E", "E", LEFT_OUT),
}  # fmt: skip


def said(reading: AnswerReading) -> str:
    return {"left_out": LEFT_OUT, "random": DRAWN}.get(reading.then, reading.accepted)


@pytest.mark.parametrize("raw", STRINGS)
def test_every_string_of_the_specs(raw: str) -> None:
    mine, *theirs = STRINGS[raw]
    assert len(theirs) == len(HARNESSES), f"add to STRINGS, {raw!r}, what each of HARNESSES reads, in their order"
    output = Output(raw, OPTIONS)
    assert said(ours(output)) == mine
    assert {name: said(SCORERS[name](output)) for name in HARNESSES} == dict(zip(HARNESSES, theirs, strict=True))


def test_every_scorer_is_in_that_table() -> None:
    lacking = sorted(set(SCORERS) - {"ours", "lmms_mlvu", *HARNESSES})
    assert not lacking, f"add {', '.join(lacking)} to HARNESSES above, and to STRINGS what it reads in each string"
    gone = sorted(set(HARNESSES) - set(SCORERS))
    assert not gone, f"take {', '.join(gone)} out of HARNESSES above, or add it to SCORERS of harness_scorers.py"
    assert SCORERS["lmms_mlvu"] is SCORERS["lmms_videomme"]
    idle = sorted(set(SCORERS) - {"ours", *(scorer for name in names() for scorer in columns_of(name).values())})
    assert not idle, f"add {', '.join(idle)} to scorers: of a benchmark's YAML file, or take it out of SCORERS"


@pytest.mark.parametrize(
    ("raw", "letter"),
    [
        ("(A) or (C), I say (A)", "A"),  # the last place of each, and the last of these
        ("C.x or B.y", "B"),  # of a letter with a dot the place is not looked at: the first of the alphabet
        ("i would say that he holds the cup and opens the door", "A"),
        ("holds the cup", DRAWN),  # five words or fewer
    ],
)
def test_of_several_letters_or_texts_lmms_nextqa_takes_the_last(raw: str, letter: str) -> None:
    assert said(SCORERS["lmms_nextqa"](Output(raw, OPTIONS))) == letter


def test_a_scorer_that_there_is_none_of_is_named_with_its_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = replace(benchmark("vstar"), scorers={"lmms": Marked("lms_mvbench", "vstar.yaml:9")})
    monkeypatch.setattr(harness_scorers, "benchmark", lambda name: wrong)
    for ask in (columns_of, protocol_for):  # before anything is answered, and before anything is counted
        with pytest.raises(ConfigError) as error:
            ask("vstar")
        assert all(each in str(error.value) for each in ("vstar.yaml:9: ", "'lms_mvbench'", "'lmms_mvbench'"))


@pytest.mark.parametrize("raw", ["", "(", ".", " "])
def test_an_empty_answer_is_right_to_one_wrong_to_another_and_uncounted_by_a_third(raw: str) -> None:
    output = Output(raw, OPTIONS)
    for truth in "ABCD":
        assert SCORERS["mvbench"](output).score(truth, 4) == 1.0
        assert SCORERS["pllava"](output).score(truth, 4) == 0.0
        assert SCORERS["lmms_mvbench"](output).score(truth, 4) == (None if raw == "" else 0.0)
        assert SCORERS["videomme"](output).score(truth, 4) is None
        assert SCORERS["lmms_longvideobench"](output).score(truth, 4) == 0.25  # the expectation of its draw
        assert ours(output).score(truth, 4) == 0.0
    assert SCORERS["mvbench"](output).letter is None


def test_what_is_drawn_is_never_drawn_here() -> None:
    assert SCORERS["lmms_egoschema"](Output("no idea", OPTIONS)).score("A", 5) == 0.2
    assert SCORERS["lmms_egoschema"](Output("no idea", OPTIONS)).score(None, 5) is None  # nobody knows the answer


def test_a_prefill_is_put_back_for_the_harness_that_does() -> None:
    assert said(SCORERS["mvbench"](Output("C) closes the door", OPTIONS, "Best option:("))) == "C"
    assert said(SCORERS["mvbench"](Output("\nC", OPTIONS, "Best option:("))) == "C"
    assert said(SCORERS["mvbench"](Output("", OPTIONS, "Best option:("))) == ALL
    assert said(SCORERS["mvbench"](Output("C because\nA", OPTIONS))) == "C"  # the first line alone


@pytest.mark.parametrize(
    ("raw", "letter", "rule"),
    [
        ("Best option:(C) closes the door", "C", "leading"),
        ("best option:(C", "C", "letter"),
        ("C. closes the door\nC. I said", "C", "leading"),
        ("A. opens the door\nB. holds the cup", None, "ambiguous leading"),
        ("[C] it closes", "C", "leading"),
        ("c) closing", "C", "leading"),
        ("A.M. is early", None, "no rule"),
        ("The correct option is: (C), because", "C", "said"),
        ("The answer is option C, I think", "C", "said"),
        ("the answer is c", "C", "said"),
        ("Answer: C, not A", "C", "said"),
        ("Answer: A man runs", None, "no rule"),
        ("Answer: A", "A", "said"),
        ("Answer: A.", "A", "said"),
        ("The answer is (A) man", "A", "said"),
        ("The answer is A because", None, "no rule"),
        ("Answer: I do not know", None, "no rule"),
        ("The answer is not C", None, "no rule"),
        ("Answer: D'accord", None, "no rule"),
        ("The answer is A. No, the answer is B.", None, "ambiguous said"),
        ("The answer is F", None, "no rule"),
        ("I would say (C).", "C", "bracketed"),
        ("either (C) or (B)", None, "ambiguous bracketed"),
        ("I would say (c).", None, "no rule"),
        ("He closes the door!", "C", "text"),
        ("C closes the door", "C", "text"),
        ("He closes the doorway", None, "no rule"),
        ("<think>It must be B, (B).", None, "empty"),
        ("<think>It is A</think>\n\n**Answer:** `C`", "C", "said"),
        (r"$\boxed{\text{C}}$", "C", "letter"),
        ("# C", "C", "letter"),
        ("_C_", "C", "letter"),
        ("\uff08\uff23\uff09", "C", "letter"),
        ("Final answer C", "C", "letter"),
        ("?!", None, "empty"),
    ],
)
def test_our_rules_in_their_order(raw: str, letter: str | None, rule: str) -> None:
    reading = ours(Output(raw, OPTIONS, "Best option:("))
    assert (reading.letter, reading.rule) == (letter, rule)
    assert reading.then == ("reads" if letter else "unparsed")


@pytest.mark.parametrize(
    ("raw", "options", "letter"),
    [
        ("a red car", ("red", "red car", "blue"), "B"),  # the longest counts
        ("a red ball and a red car", ("red", "red car", "blue"), None),  # and the other stands elsewhere too
        ("3", ("13", "3", "3.5"), "B"),
        ("There are 3.5 of them", ("13", "3", "3.5"), "C"),
        ("13,000", ("13", "3", "3.5"), None),
        ("Yes, it does.", ("yes", "no"), "A"),
        ("no doubt: yes", ("yes", "no"), None),
        ("moved", ("moved", "not moved"), "A"),
        ("it has not moved", ("moved", "not moved"), "B"),
        ("A man runs", ("A man runs", "A dog runs"), "A"),
        ("a DOG runs.", ("A man runs.", "A dog runs."), "B"),
        ("a dog", ("a dog", "A dog"), None),  # equal options are ambiguous
        ("hit (B)", ("miss", "fall", "hit (B)"), "C"),  # a bracket of an option's own text
        ("hit (B)", ("miss (A)", "fall", "hit"), "B"),
        ("e", ("l", "e", "o"), "B"),  # MVBench's character_order: no such letter, but such an option
        ("c", ("c", "r", "e"), None),  # the letter of "e", or the text of A?
        ("c", ("r", "e", "c"), "C"),
        ("哪里", ("这里", "哪里"), "B"),
        ("100 % {x}", ("100 % {x}", "y"), "A"),
        ("...", ("...", "a"), None),
        ("E", OPTIONS, None),
        ("E", (*OPTIONS, "none"), "E"),
    ],
)
def test_our_last_rule_reads_the_options_text(raw: str, options: tuple[str, ...], letter: str | None) -> None:
    assert ours(Output(raw, options)).letter == letter


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=60), st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=8))
def test_no_scorer_fails_and_ours_reads_options_alone(raw: str, options: list[str]) -> None:
    output = Output(raw, tuple(options))
    for name, scorer in SCORERS.items():
        reading = scorer(output)
        assert set(reading.accepted) <= set(string.ascii_uppercase)
        assert reading == scorer(output)
        for truth in output.letters:
            score = reading.score(truth, len(options))
            assert score is None or 0 <= score <= 1
        if name == "ours":
            assert reading.letter is None or reading.letter in output.letters
            assert (reading.letter is None) == (reading.then == "unparsed") and reading.rule


@settings(max_examples=100, deadline=None)
@given(st.sampled_from("ABCD"), st.sampled_from(("{}", "({})", "{}.", "{})", "{}:", " {}\n", "**{}**", "Answer: {}")))
def test_ours_reads_every_plain_way_of_naming_a_letter(letter: str, way: str) -> None:
    assert ours(Output(way.format(letter), OPTIONS)).letter == letter
