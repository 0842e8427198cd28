"""`prepare`: once a sample and reducer, on the prompt as it came; its note comes back at each of its steps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from prunevid_qwen.forward.evidence import _there
from prunevid_qwen.forward.plan import Plan, Step
from prunevid_qwen.needs import Evidence, Needs
from prunevid_qwen.stage1_merge import Pool
from prunevid_qwen.stage2_select import Uniform
from prunevid_qwen.tokens.trace import DOOR
from tests.looking import Rated
from tests.models import MIXED, ONE_VIDEO, make_inputs, tiny_model
from tests.pruned_generation import skip_if_the_library_mixes_beams_up
from tests.test_evidence import inputs_of, places
from tests.test_generation import member
from tests.tolerances import close
from tests.watching import Notes, watched


class Remembers(Notes):
    """Its note is the number of the sample, by the order in which they were looked at."""

    def __init__(self, needs: Needs, keep_ratio: float = 0.8) -> None:
        super().__init__(needs, keep_ratio)
        self.prepared: list[Evidence] = []

    def prepare(self, seen: Evidence) -> int:
        self.prepared.append(seen)
        return len(self.prepared)


@pytest.mark.parametrize("asked", ["", "all", "question", "last"])
def test_it_sees_the_embeddings_before_any_step(asked: str) -> None:
    method, inputs = Remembers(Needs(question=asked)), inputs_of(MIXED[:2])
    made = watched(tiny_model(), inputs, Plan((Step(DOOR, Pool(0.5)), Step(2, method))))
    for b, seen in enumerate(method.prepared):
        visual, text = places(inputs, b)
        assert torch.equal(seen.hidden, made.embeds[b, visual])
        assert torch.equal(seen.question, made.embeds[b, text[asked] if asked else visual[:0]])
        assert (seen.layer, seen.start, seen.layout.visual.numel()) == (DOOR, visual.numel(), visual.numel())
        assert (seen.attention, seen.vision, seen.marks, seen.keys, seen.note) == (None,) * 5
    assert len(method.prepared) == 2


def test_once_a_sample_however_many_steps() -> None:
    one, other = Remembers(Needs()), Remembers(Needs())
    steps = (Step(DOOR, one), Step(1, other), Step(2, one), Step(4, one))
    watched(tiny_model(), inputs_of(MIXED), Plan(steps))
    assert len(one.prepared) == len(other.prepared) == 2, "a text has nothing to look at"
    assert [seen.note for seen in one.seen] == [1, 2] * 3
    assert [seen.note for seen in other.seen] == [1, 2]
    watched(tiny_model(), inputs_of(MIXED), Plan(steps))
    assert [seen.note for seen in one.seen[6:]] == [3, 4] * 3, "another prompt, another note"


def test_its_time_is_that_of_its_first_step() -> None:
    one = Remembers(Needs())
    made = watched(tiny_model(), inputs_of(ONE_VIDEO), Plan((Step(1, one), Step(2, one)), compress=False))
    assert made.trace is not None
    assert [len(made.trace.seconds.steps[at]) for at in (1, 2)] == [2, 1]


def test_rows_of_each_are_the_tokens_that_were_prepared_for() -> None:
    """Text keeps its order: row i of the evidence is token i of the note, at every step."""
    method, inputs = Rated(0.5), inputs_of(ONE_VIDEO)
    notes: list[Evidence] = []
    score = method.score
    method.score = lambda seen: notes.append(seen) or score(seen)  # type: ignore[method-assign,func-returns-value]
    made = watched(tiny_model("eager"), inputs, Plan((Step(0, Uniform(0.7)), Step(2, method), Step(4, method)), False))
    for seen, layer in zip(notes, (2, 4), strict=True):
        assert seen.attention is not None
        rows = made.weights[layer][0][:, seen.layout.question][..., seen.layout.visual]
        best = rows.sum((1, 2)).argsort(descending=True)[:3]
        close(seen.attention, rows[best].mean(0).log())
        assert seen.note.shape == seen.attention.shape[:1]
    assert torch.equal(notes[0].note, notes[1].note)


def test_a_batch_has_the_notes_of_its_members() -> None:
    def notes_of(given: dict[str, Any]) -> list[Tensor]:
        method = Noting(0.6)
        watched(tiny_model(), given, Plan((Step(1, method), Step(3, method))))
        return method.notes

    inputs = make_inputs(MIXED)
    together = notes_of(inputs)
    alone = [notes_of(member(inputs, MIXED, b)) for b in range(2)]
    assert [len(each) for each in alone] == [2, 2] and len(together) == 4
    for b in range(2):
        assert all(torch.equal(together[b + 2 * step], alone[b][step]) for step in range(2))
    assert not torch.equal(together[0], together[1]), "or it would prove nothing"


class Noting(Rated):
    """Writes its notes down."""

    def __init__(self, keep_ratio: float) -> None:
        super().__init__(keep_ratio)
        self.notes: list[Tensor] = []

    def score(self, seen: Evidence) -> Tensor:
        self.notes.append(seen.note)
        return super().score(seen)


def test_each_beam_has_its_prompts_note() -> None:
    skip_if_the_library_mixes_beams_up()
    from prunevid_qwen.forward.hooks import pruned

    method = Noting(0.6)
    with pruned(tiny_model(), Plan((Step(1, method),))):
        tiny_model().generate(**make_inputs(MIXED), max_new_tokens=2, do_sample=False)
        alone = list(method.notes)
        method.notes.clear()
        tiny_model().generate(**make_inputs(MIXED), max_new_tokens=2, num_beams=2, do_sample=False)
    assert len(method.notes) == 4
    assert all(torch.equal(note, alone[beam // 2]) for beam, note in enumerate(method.notes))


def test_notes_of_tensors_go_where_the_step_runs() -> None:
    device, note = torch.device("meta"), (torch.ones(2), [torch.zeros(1), "word"], 3)
    there = _there(note, device)
    assert there[0].device == there[1][0].device == device and there[1][1] == "word" and there[2] == 3
    assert isinstance(there, tuple) and isinstance(there[1], list)


@pytest.mark.parametrize("question", ["", "all"])
def test_what_came_to_the_first_step_is_told_to_rows_that_show_the_same(question: str) -> None:
    """Beams, and questions about a video: the door decides once for them, and later steps for each."""
    method = Notes(Needs(question=question), 0.5)
    inputs = {name: torch.cat([x, x]) for name, x in inputs_of(ONE_VIDEO).items()}
    watched(tiny_model(), inputs, Plan((Step(DOOR, method), Step(2, method))))
    assert [(seen.step, seen.entered) for seen in method.seen] == [(0, (80,)), (1, (80,)), (1, (80,))]
