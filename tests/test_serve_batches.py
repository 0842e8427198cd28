"""Batches of the server: they form, no answer differs in one, each row ends by its own rules, none spoils others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from prunevid_qwen import PrunedVLM, get_config
from prunevid_qwen.inputs.together import PreparedMedium
from prunevid_qwen.serve.answer_rows import AnswerRow, NearTies, RowEnds
from prunevid_qwen.serve.batch_line import BatchLine, Drawing, WaitingQuestion
from prunevid_qwen.serve.limits import ServeLimits
from prunevid_qwen.serve.memory_bound import MemoryBound, PromptLength
from prunevid_qwen.serve.prepared_media import PreparedMedia
from tests.serving import CLIPS, NAMES, QUESTIONS

PAPER, LENGTH = get_config("paper"), PromptLength(8, 4, 4, 30, 16)
CASES = [(name, question) for question in QUESTIONS for name in NAMES]


@pytest.fixture(scope="module")
def model() -> PrunedVLM:
    return PrunedVLM("bundled")


@pytest.fixture(scope="module")
def alone() -> PrunedVLM:
    return PrunedVLM("bundled")


@pytest.fixture
def line(model: PrunedVLM) -> Iterator[BatchLine]:
    made = BatchLine(model, PreparedMedia(2**28), ServeLimits(batch=4, wait_ms=0), MemoryBound.of(model.model, 2**34))
    yield made
    made.close()


class Held:
    """The line's thread waits inside the block, so that all that is put meanwhile is there at once."""

    def __init__(self, line: BatchLine) -> None:
        self._lock = line._model._lock
        self._line = line

    def __enter__(self) -> None:
        self._lock.__enter__()
        self._line.put(question(NAMES[0], "?"))  # the thread takes it, and waits for the model
        while self._line.waiting:
            pass

    def __exit__(self, *error: Any) -> None:
        self._lock.__exit__(*error)


def question(name: str, words: str, **more: Any) -> WaitingQuestion:
    medium = MEDIA[name]
    talk = [{"role": "user", "content": [{"type": "video", "number": 0}, {"type": "text", "text": words}]}]
    rows = more.pop("rows", [AnswerRow(more.pop("limit", 16), more.pop("stops", ()))])
    return WaitingQuestion(talk, [(name, medium)], more.pop("config", PAPER), words, LENGTH, rows, **more)


MEDIA: dict[str, PreparedMedium] = {}


@pytest.fixture(scope="module", autouse=True)
def media(alone: PrunedVLM) -> None:
    for name in NAMES:
        MEDIA[name] = PreparedMedium.of(alone.prepare(str(CLIPS / name), "?"))


def test_batches_form_and_no_answer_differs(line: BatchLine, alone: PrunedVLM) -> None:
    asked = [question(*case) for case in CASES]
    with Held(line):
        for each in asked:
            line.put(each)
    sizes = []
    for (name, words), each in zip(CASES, asked, strict=True):
        facts, wanted = each.done.result(60), alone.generate(str(CLIPS / name), words, return_stats=True)
        assert each.rows[0].text == wanted["answer"]
        assert facts["receipt"]["tokens"] == wanted["stats"]["tokens"]
        assert facts["batch"]["near_ties"] == 0
        sizes.append(facts["batch"]["requests"])
    assert sizes == [4] * 12 and line.sizes[-3:] == [4, 4, 4]


def test_another_config_waits_for_its_own_batch(line: BatchLine) -> None:
    other = get_config("fastv")
    asked = [question(NAMES[0], QUESTIONS[0], config=config) for config in (PAPER, other, PAPER, other)]
    with Held(line):
        for each in asked:
            line.put(each)
    facts = [each.done.result(60) for each in asked]
    assert [each["batch"]["requests"] for each in facts] == [2] * 4
    assert [each["receipt"]["config"]["selector"] for each in facts] == ["prunevid", "fastv"] * 2


def test_rows_of_a_batch_end_by_their_own_rules(line: BatchLine, alone: PrunedVLM) -> None:
    whole = alone.generate(str(CLIPS / NAMES[0]), QUESTIONS[0])["answer"]
    asked = [question(NAMES[0], QUESTIONS[0], **more) for more in ({}, {"limit": 1}, {"stops": (whole[2:4],)})]
    with Held(line):
        for each in asked:
            line.put(each)
    for each in asked:
        each.done.result(60)
    rows = [each.rows[0] for each in asked]
    assert [row.text for row in rows] == [whole, whole, whole[:2]]
    assert [row.ended for row in rows] == ["stop", "length", "stop"] and len(rows[1].tokens) == 1


def test_one_that_fails_spoils_no_other(line: BatchLine, alone: PrunedVLM) -> None:
    asked = [question(NAMES[0], words) for words in QUESTIONS[:3]]
    asked[1].messages[0]["content"][1]["text"] = "<|video_pad|>"  # which the prompt's text may not hold
    with Held(line):
        for each in asked:
            line.put(each)
    with pytest.raises(ValueError, match="placeholders"):
        asked[1].done.result(60)
    for each in (asked[0], asked[2]):
        each.done.result(60)
        assert each.rows[0].text == alone.generate(str(CLIPS / NAMES[0]), each.question)["answer"]


def test_a_batch_that_fails_in_the_middle_doubles_no_words(
    line: BatchLine, alone: PrunedVLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, heard = RowEnds.__call__, list[str]()

    def fails_after_a_step(ends: RowEnds, ids: torch.Tensor, scores: Any, **more: Any) -> Any:
        if len(ids) > 1 and ends._rows[0].tokens:
            raise RuntimeError("out of memory")
        return step(ends, ids, scores, **more)

    monkeypatch.setattr(RowEnds, "__call__", fails_after_a_step)
    asked = [question(NAMES[0], words) for words in QUESTIONS[:2]]
    asked[0].rows[0].tell = heard.append
    with Held(line):
        for each in asked:
            line.put(each)
    wanted = alone.generate(str(CLIPS / NAMES[0]), QUESTIONS[0], return_stats=True)
    facts = asked[0].done.result(60)
    assert "".join(heard) == asked[0].rows[0].text == wanted["answer"] and facts["batch"]["requests"] == 1
    assert len(asked[0].rows[0].tokens) == wanted["stats"]["generated_tokens"]


def test_sampled_answers_run_alone(line: BatchLine) -> None:
    drawing = Drawing(3, 1.0)
    asked = [question(NAMES[0], QUESTIONS[0], drawing=drawing), question(NAMES[0], QUESTIONS[0]),
             question(NAMES[0], QUESTIONS[0], drawing=drawing)]  # fmt: skip
    with Held(line):
        for each in asked:
            line.put(each)
    assert [each.done.result(60)["batch"]["requests"] for each in asked] == [1, 1, 1]
    assert asked[0].rows[0].tokens == asked[2].rows[0].tokens


def test_one_whose_client_has_gone_is_not_answered(line: BatchLine) -> None:
    gone, stays = question(NAMES[0], QUESTIONS[0]), question(NAMES[0], QUESTIONS[1])
    with Held(line):
        for each in (gone, stays):
            line.put(each)
        gone.rows[0].gone.set()
    assert stays.done.result(60)["batch"]["requests"] == 1
    assert gone.done.cancelled() and not gone.rows[0].tokens


def test_one_that_goes_in_the_middle_frees_its_row(line: BatchLine) -> None:
    leaves = question(NAMES[0], QUESTIONS[0], limit=16)
    leaves.rows[0].tell = lambda text: leaves.rows[0].gone.set()
    line.put(leaves).result(60)
    assert leaves.rows[0].ended == "gone" and len(leaves.rows[0].tokens) == 1


def test_a_batch_is_no_larger_than_memory(model: PrunedVLM) -> None:
    bound = MemoryBound.of(model.model, 0)
    two = bound.needed(PAPER, [LENGTH, LENGTH])
    assert bound.needed(PAPER, [LENGTH]) < two < bound.needed(PAPER, [LENGTH] * 3)
    line = BatchLine(model, PreparedMedia(2**28), ServeLimits(batch=4, wait_ms=0), MemoryBound.of(model.model, two))
    asked = [question(NAMES[0], words) for words in QUESTIONS]
    with Held(line):
        for each in asked:
            line.put(each)
    assert [each.done.result(60)["batch"]["requests"] for each in asked] == [2] * 4
    line.close()


def test_what_waits_when_the_line_closes_is_answered(model: PrunedVLM) -> None:
    line = BatchLine(model, PreparedMedia(2**28), ServeLimits(batch=4), MemoryBound.of(model.model, 2**34))
    asked = [question(NAMES[0], words) for words in QUESTIONS]
    for each in asked:
        line.put(each)
    line.close()
    assert all(each.done.done() and each.rows[0].text for each in asked)
    with pytest.raises(RuntimeError):
        line.put(question(NAMES[0], QUESTIONS[0]))


def test_a_question_alone_finds_the_prefix_of_the_one_before(line: BatchLine) -> None:
    outcomes = [line.put(question(NAMES[1], words)).result(60)["prefix"] for words in QUESTIONS[:2]]
    assert outcomes == ["made", "reused"]


class Letters:
    """A tokenizer whose tokens are letters."""

    def decode(self, tokens: list[int], skip_special_tokens: bool = False) -> str:
        return bytes(tokens).decode("utf-8", "replace")


@pytest.mark.parametrize(
    ("text", "stops", "told", "ended"),
    [
        (" a b ", (), ["a", " b"], "length"),  # blanks around the answer are nobody's
        ("one END two", ("END",), ["one"], "stop"),
        ("one EN two", ("END",), ["one", " EN two"], "length"),  # held back until it was no stop text
        ("aab", ("ab",), ["a"], "stop"),
        ("äx", (), ["ä", "x"], "length"),  # half a character is not told
        ("one", ("one",), [], "stop"),
    ],
)
def test_words_are_told_when_they_are_sure(text: str, stops: tuple[str, ...], told: list[str], ended: str) -> None:
    tokens, heard = list(text.encode()), list[str]()
    row = AnswerRow(len(tokens), stops, heard.append)
    for each in tokens:
        if row.ended is None:
            row.add(each, Letters(), ())
    assert "".join(heard) == "".join(told) == row.text and row.ended == ended
    joined = [each for each in heard if each]
    assert all(stop not in "".join(joined) for stop in stops)


def test_near_ties_are_counted() -> None:
    rows = [AnswerRow(4), AnswerRow(4), AnswerRow(4)]
    rows[2].ended = "stop"
    logits = torch.tensor([[9.0, 9.0 - 1e-4, 0.0], [9.0, 8.9, -torch.inf], [1.0, 1.0, 1.0]])
    assert NearTies(rows, torch.float32)(torch.zeros(3, 1, dtype=torch.long), logits) is logits
    assert [row.near_ties for row in rows] == [1, 0, 0]
    assert NearTies(rows, torch.bfloat16)(torch.zeros(3, 1, dtype=torch.long), logits) is logits
    assert [row.near_ties for row in rows] == [2, 1, 0]  # bfloat16 cannot tell 9.0 from 8.9
