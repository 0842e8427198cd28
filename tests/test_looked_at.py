"""When the question looked: hand-made traces against spans counted by hand, and what is told of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from prunevid_qwen import Plan, Step, get_baseline_config, get_config
from prunevid_qwen.cli.report import looked_at_line
from prunevid_qwen.forward.plan_steps import _note
from prunevid_qwen.needs import AttentionQuery, Needs, Probe
from prunevid_qwen.receipt import receipt
from prunevid_qwen.receipt.looked_at import last_guided, looked_at, spans_of, weight_of_tokens
from prunevid_qwen.stage2_select import FastV
from prunevid_qwen.tokens import Block, TokenMap
from prunevid_qwen.tokens.trace import DOOR, Reduction, SampleTrace, Trace
from prunevid_qwen.video.position_times import frames_of_positions, seconds_of_positions
from tests.api_model import ASKED, model, other, picture, video

__all__ = ["model", "other", "picture", "video"]

FACTS = {"timestamps": [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5], "seconds_per_grid": 1.0, "duration": 3.9, "padded": 0}
VIDEO = Block("video", (4, 1, 2), 0, 8)  # two tokens a second
ALL = TokenMap.identity(8)


def trace(*reductions: Reduction, blocks: Sequence[Block] = (VIDEO,), cells: list[int] | None = None) -> SampleTrace:
    tokens = blocks[-1].stop
    return SampleTrace(tuple(blocks), tokens, tokens + 5, reductions, None if cells is None else torch.tensor(cells))


def cut(*kept: int, of: int = 8, share: Sequence[float] | None = None, at: int = 3, guided: bool = True) -> Reduction:
    score = None if share is None else torch.tensor(share).log()
    return Reduction(at, "FastV", TokenMap.keep(torch.tensor(kept, dtype=torch.long), of), score=score, guided=guided)


def spans(sample: SampleTrace) -> Any:
    found = looked_at(sample, [FACTS])
    return None if found is None else found[0]["spans"]


def test_kept_tokens_in_neighbouring_seconds_make_one_span() -> None:
    assert spans(trace(cut(2, 3, 4, 5))) == [[1.0, 3.0]]
    assert spans(trace(cut(0, 1, 6, 7))) == [[0.0, 1.0], [3.0, 3.9]]  # the video ends before the last second does
    assert spans(trace(cut(0, 2, 4, 6))) == []  # one in each second: none has more than its share


def test_attention_tells_seconds_apart_where_each_keeps_as_many() -> None:
    even = cut(0, 2, 4, 6, share=[0.1, 0.0, 0.1, 0.0, 0.7, 0.0, 0.1, 0.0])
    assert spans(trace(even)) == [[2.0, 3.0]]
    dropped = cut(0, 2, 4, 6, share=[0.1, 0.0, 0.1, 0.6, 0.1, 0.0, 0.1, 0.0])  # much attention, but not kept
    assert spans(trace(dropped)) == []


def test_a_merged_token_stands_for_each_of_its_members() -> None:
    merged = TokenMap(torch.tensor([0, 1, 0, 2, 0, 3, 0, 4]), torch.tensor([0, 1, 3, 5, 7]))
    sample = trace(Reduction(DOOR, "m", merged), cut(0, 3, of=5, share=[0.8, 0.0, 0.0, 0.2, 0.0]))
    assert weight_of_tokens(sample, 1).tolist() == pytest.approx([0.2, 0, 0.2, 0, 0.2, 0.2, 0.2, 0])
    assert spans(sample) == [[2.0, 3.0]]  # 0.4 of 1, where a quarter is its share


def test_a_token_that_an_earlier_step_dropped_counts_nothing() -> None:
    sample = trace(cut(0, 1, 6, 7, at=1), cut(2, 3, of=4))
    assert weight_of_tokens(sample, 1).tolist() == [0, 0, 0, 0, 0, 0, 1, 1]
    nothing = trace(cut(at=1), cut(of=0))
    assert not weight_of_tokens(nothing, 1).any() and len(weight_of_tokens(nothing, 1)) == 8


def test_the_last_guided_step_between_the_layers_is_the_one() -> None:
    door = Reduction(DOOR, "m", ALL, guided=True)
    sample = trace(door, cut(*range(8), at=1), cut(2, 3, at=2), cut(0, of=2, guided=False))
    assert last_guided(sample) == 2 and spans(sample) == [[1.0, 2.0]]
    for unguided in (trace(door, cut(0, 1, guided=False)), trace()):
        assert last_guided(unguided) is None and spans(unguided) is None


@pytest.mark.parametrize("preset", ["paper", "recommended", "fastv"])
def test_a_preset_is_guided(model: Any, video: Any, preset: str) -> None:
    assert "looked_at" in model.with_config(get_config(preset)).generate(video, ASKED, max_new_tokens=1)["stats"]


def test_attention_and_a_probe_guide_and_other_evidence_does_not() -> None:
    noted = []
    for needs in (
        Needs(attention=AttentionQuery()),
        Needs(probe=Probe(torch.zeros(4, 1, 8), (2,), 2)),
        Needs(keys=True),
    ):
        rows = [SimpleNamespace(reductions=[])]
        state: Any = SimpleNamespace(rows=rows, check_free=lambda: None)
        _note(state, [ALL], cast(Any, SimpleNamespace(at=3, name="s", by=SimpleNamespace(needs=needs))))
        noted.append(rows[0].reductions[0].guided)
    assert noted == [True, True, False]


def test_images_and_newlines_are_in_no_second_and_each_video_has_its_own_share() -> None:
    blocks = (Block("image", (1, 1, 2), 0, 2), Block("video", (2, 1, 2), 2, 7, 1), Block("video", (2, 1, 1), 7, 9))
    sample = trace(cut(0, 2, 3, 6, 7, 8, of=9), blocks=blocks, cells=[0, 1, 0, 1, 2, 3, -1, 0, 1])
    short = {**FACTS, "timestamps": [10.0, 12.0], "seconds_per_grid": 2.0, "duration": None}
    assert looked_at(sample, [short, short]) == [
        {"video": 0, "spans": [[10.0, 12.0]]},
        {"video": 1, "spans": []},
    ]


def test_nothing_is_said_where_times_are_unknown() -> None:
    sample = trace(cut(0, 1))
    for videos in ([], [FACTS, FACTS], [{**FACTS, "timestamps": []}]):
        assert looked_at(sample, videos) is None
    assert looked_at(trace(cut(0, of=2), blocks=[Block("image", (1, 1, 2), 0, 2)]), []) is None


def test_a_share_as_large_as_the_bound_counts_and_none_does_of_nothing() -> None:
    seconds = [(0.0, 1.0), (1.0, 2.0), (2.0, 3.0), (3.0, 4.0)]
    assert spans_of([3.0, 2.0, 2.0, 1.0], seconds) == [[0.0, 1.0]]
    assert spans_of([2.9, 2.1, 2.0, 1.0], seconds) == []
    assert spans_of([0.0] * 4, seconds) == [] and spans_of([5.0], seconds[:1]) == []


def test_when_positions_are_shown() -> None:
    facts = {"timestamps": [0.0, 1.0, 2.0], "padded": 1}
    assert frames_of_positions(facts, 2) == [range(0, 2), range(2, 3)]
    assert seconds_of_positions(facts, 2) == [(0.0, 2.0), (2.0, 2.0)]
    assert seconds_of_positions({**facts, "seconds_per_grid": 2.0}, 2)[1] == (2.0, 4.0)
    assert seconds_of_positions({**facts, "seconds_per_grid": 2.0, "duration": 3.0}, 2)[1] == (2.0, 3.0)


def test_the_receipt_tells_it() -> None:
    def told(guided: bool) -> Any:
        sample, plan = trace(cut(2, 3, guided=guided)), Plan((Step(3, FastV(0.5)),))
        run = Trace("hf", 3, 6, samples=(sample,), cache_lengths=(7,) * 6, cache_bytes=700)
        return receipt(run, 0, plan, [FACTS], ["video"], 13, {}, {"read": 0.0, "total": 1.0}, 1)

    assert told(True)["looked_at"] == [{"video": 0, "spans": [[1.0, 2.0]]}]
    assert "looked_at" not in told(False)


def test_an_answer_tells_it(model: Any, video: Any) -> None:
    stats = model.generate(video, ASKED, max_new_tokens=1)["stats"]
    (only,), (shown,) = stats["looked_at"], stats["input"]["videos"]
    ends = [end for span in only["spans"] for end in span]
    assert only["video"] == 0 and ends == sorted(ends)
    assert all(shown["timestamps"][0] <= end <= (shown["duration"] or math.inf) + 1e-3 for end in ends)
    blind = model.with_config(get_baseline_config()).generate(video, ASKED, max_new_tokens=1)["stats"]
    assert "looked_at" not in blind


def test_a_person_reads_minutes() -> None:
    def line(*found: list[list[float]]) -> str:
        looked = [{"video": number, "spans": each} for number, each in enumerate(found)]
        return looked_at_line({"input": {"videos": [{}] * len(found)}, "looked_at": looked})

    assert "00:12 to 00:15" in line([[12.0, 15.0]])
    assert "01:02 to 01:04" in line([[62.9, 63.1]]) and "1:00:00 to 1:00:01" in line([[3600.0, 3600.5]])
    several = line([], [[1.0, 2.0]])
    assert "2" in several.split("00:01")[0]
    assert line([]) == looked_at_line({"input": {}}) == ""
