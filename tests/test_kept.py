"""What became of every token: hand-made maps against cells, and a model's answers against its own trace."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from prunevid_qwen import Block, ConfigError, Mix, PruneVidQwen25VL, TokenMap, get_config, pruned
from prunevid_qwen.answers.answer import Answer, words_asked
from prunevid_qwen.kept import Kept, kept_of
from prunevid_qwen.tokens.trace import Reduction, SampleTrace
from tests.api_model import ASKED, ask, model, other, picture, video

__all__ = ["model", "other", "picture", "video"]

VIDEO = {"source": "v.mp4", "size": [100, 60], "timestamps": [0.0, 0.5, 1.0, 1.5], "padded": 0, "duration": 2.0,
         "seconds_per_grid": 1.0}  # fmt: skip
IMAGE = {"source": "i.png", "size": [40, 80]}
BLOCKS = (Block("video", (2, 1, 3), 0, 6), Block("image", (1, 2, 2), 6, 10))


def trace(*reductions: Reduction, blocks: tuple[Block, ...] = BLOCKS, cells: list[int] | None = None) -> SampleTrace:
    tokens = blocks[-1].stop
    return SampleTrace(blocks, tokens, tokens + 5, reductions, None if cells is None else torch.tensor(cells))


def states(kept: Kept, step: int = -1) -> str:
    return "".join(str(each)[0] for each in kept.steps[step].states)


# tokens 0 and 3 (the same place at two times) are one group, 1 is dropped, and the image keeps its corners
DOOR = TokenMap(torch.tensor([0, -1, 1, 0, 2, 3, 4, -1, -1, 5]), torch.tensor([3, 2, 4, 5, 6, 9]))
CUT = TokenMap.keep(torch.tensor([0, 3, 5]), 6)


def test_a_merge_at_the_door_then_a_cut() -> None:
    score = torch.tensor([-1.0, -5.0, -6.0, -2.0, -7.0, -3.0])
    kept = kept_of(trace(Reduction(-1, "m", DOOR), Reduction(3, "s", CUT, score=score)), [VIDEO, IMAGE], "q", "a")
    assert states(kept, 0) == "mdkmkkkddk"
    assert states(kept, 1) == "mddmdkdddk"
    assert kept.steps[1].group.tolist() == [0, -1, -1, 0, -1, 1, -1, -1, -1, 2]
    assert np.flatnonzero(kept.steps[1].own).tolist() == [3, 5, 9]
    assert kept.count == 3 and kept.left.sum() == 4
    cells = list(kept.cells())
    assert [each.dropped_at for each in cells] == [None, -1, 3, None, 3, None, 3, -1, -1, None]
    assert cells[0].fates[1] == ("s", "merged", 0, -1.0) and cells[1].fates[1].score is None
    assert cells[2].fates == (("m", "kept", 1, None), ("s", "dropped", None, -5.0))
    assert (cells[4].position, cells[4].row, cells[4].column, cells[4].frames) == (1, 0, 1, (2, 3))
    assert cells[4].box == (20.0, 0.0, 40.0, 100.0)  # a third of 60 pixels across, all 100 down
    assert cells[4].seconds == (1.0, 2.0)
    assert (cells[8].medium, cells[8].row, cells[8].column, cells[8].box) == (1, 1, 0, (0.0, 20.0, 40.0, 40.0))
    assert cells[8].seconds is None and cells[8].frames == ()


def test_how_much_of_each_second_is_left() -> None:
    kept = kept_of(trace(Reduction(-1, "m", DOOR), Reduction(3, "s", CUT)), [VIDEO, IMAGE])
    assert kept.per_second() == [(0.0, 1.0, 0.0), (1.0, 2.0, 2 / 3)]  # the group of 0 and 3 has the place of 3
    assert kept.per_position(0, 0).tolist() == [1 / 3, 1.0]
    assert kept.per_position(1).tolist() == [0.25] and kept.per_second(1) == []


def test_nothing_pruned_keeps_all() -> None:
    kept = kept_of(trace(), [VIDEO, IMAGE])
    assert kept.count == 10 and kept.left.all() and kept.per_position().tolist() == [1.0, 1.0]
    assert all(each.fates == () and each.dropped_at is None for each in kept.cells())


def test_a_merge_inside_the_decoder_with_a_mix() -> None:
    # token 1 is in no group, and gives most of itself to group 1
    mix = Mix(torch.tensor([0, 2, 1, 1]), torch.tensor([0, 1, 0, 1]), torch.tensor([1.0, 1.0, 0.2, 0.8]))
    step = TokenMap(torch.tensor([0, -1, 1]), torch.tensor([0, 2]), mix=mix)
    kept = kept_of(trace(Reduction(5, "h", step), blocks=(Block("video", (1, 1, 3), 0, 3),)))
    assert kept.steps[0].group.tolist() == [0, 1, 1]
    assert states(kept) == "kmm"


def test_tokens_without_a_place_and_tiles() -> None:
    blocks = (Block("image", (1, 1, 2), 0, 3, 1), Block("image", (1, 2, 1), 3, 5, 0, True))
    kept = kept_of(trace(blocks=blocks, cells=[0, 1, -1, 0, 1]), [IMAGE])
    cells = list(kept.cells())
    assert [each.row for each in cells] == [0, 0, -1, 0, 1] and cells[2].box is None
    assert not any(medium.placed for medium in kept.media)  # shown in tiles: where a cell lies is unknown
    assert [medium.name for medium in kept.media] == ["i.png", "i.png"]


def test_cropped_frames_have_no_boxes() -> None:
    kept = kept_of(trace(), [VIDEO, IMAGE], uneven=("image",))
    assert [medium.placed for medium in kept.media] == [True, False]
    assert kept.media[1].box(0, 0) is None and kept.media[0].box(0, 0) is not None
    with pytest.raises(ValueError, match="3 columns"):
        kept.media[0].box(0, 3)


def test_an_odd_last_frame_is_shown_twice() -> None:
    facts = {**VIDEO, "timestamps": [0.0, 1.0, 2.0], "padded": 1, "duration": 2.5}
    (medium,) = kept_of(trace(blocks=BLOCKS[:1]), [facts]).media
    assert medium.frames == ((0, 1), (2,)) and medium.seconds == ((0.0, 2.0), (2.0, 2.5))


def test_facts_of_another_number_are_refused() -> None:
    with pytest.raises(ValueError, match="2 videos and images"):
        kept_of(trace(), [VIDEO])


def test_json_and_back() -> None:
    score = torch.tensor([-1.0, -5.0, -6.0, -2.0, -7.0, -3.0])
    kept = kept_of(trace(Reduction(-1, "m", DOOR), Reduction(3, "s", CUT, score=score)), [VIDEO, IMAGE], "q", "a")
    plain = json.loads(json.dumps(kept.to_dict()))
    assert Kept.from_dict(plain).to_dict() == plain
    assert list(Kept.from_dict(plain).cells()) == list(kept.cells())


# ---- of a model


def test_an_answer_is_a_dict_and_holds_the_map_only_if_asked(model: PruneVidQwen25VL, video: Path) -> None:
    plain, held = ask(model, video, ASKED), ask(model, video, ASKED, keep_map=True)
    assert isinstance(held, Answer) and isinstance(held, dict) and type(plain) is Answer
    assert set(held) == set(plain) == {"answer", "stats"}
    with pytest.raises(ConfigError, match="keep_map=True"):
        _ = plain.kept
    for twin in (pickle.loads(pickle.dumps(held)), copy.deepcopy(held)):
        assert twin == held and twin.kept.to_dict() == held.kept.to_dict()
    assert json.loads(json.dumps(held)) == dict(held)
    assert held.kept.question == ASKED and held.kept.answer == held["answer"]


def test_it_counts_what_the_receipt_counts(model: PruneVidQwen25VL, video: Path, other: Path, picture: Path) -> None:
    for config in ("paper", "recommended", "fastv"):
        result = model.with_config(get_config(config)).generate(
            [video, other], ASKED, images=picture, max_new_tokens=2, keep_map=True
        )
        kept, stats = result.kept, result["stats"]
        assert [len(set(step.group.tolist()) - {-1}) for step in kept.steps] == [
            row["tokens_out"] for row in stats["steps"]
        ]
        assert kept.tokens == stats["tokens"]["visual"] and kept.count == stats["tokens"]["after_stage2"]
        shown = [*stats["input"]["videos"], *stats["input"]["images"]]
        assert [list(each.grid) for each in kept.media] == [each["grid"] for each in shown]
        assert [list(each.size) for each in kept.media] == [each["size"][::-1] for each in shown]
        last = kept.media[0]
        assert last.seconds is not None and last.seconds[0][0] == shown[0]["timestamps"][0]


def test_rows_of_a_batch_have_their_own(model: PruneVidQwen25VL, video: Path, other: Path) -> None:
    rows = ask(model, [video, other], [ASKED, "what shape ?"], keep_map=True)
    assert [row.kept.question for row in rows] == [ASKED, "what shape ?"]
    alone = ask(model, other, "what shape ?", keep_map=True)
    assert rows[1].kept.to_dict()["media"] == alone.kept.to_dict()["media"]
    assert rows[1].kept.steps[-1].group.tolist() == alone.kept.steps[-1].group.tolist()
    beams = ask(model, video, ASKED, keep_map=True, num_beams=2)
    assert beams.kept.tokens == rows[0].kept.tokens


def test_attention_is_the_score(model: PruneVidQwen25VL, video: Path) -> None:
    kept = model.with_config(get_config("fastv")).generate(video, ASKED, max_new_tokens=1, keep_map=True).kept
    (step,) = kept.steps
    assert step.score is not None
    chosen = step.group >= 0
    assert step.score[chosen].min() >= step.score[~chosen].max()
    assert step.score.max() <= 0  # natural logarithms of shares


def test_prepared_videos_and_a_trace_of_ones_own(model: PruneVidQwen25VL, video: Path) -> None:
    prepared = model.prepare(video, ASKED)
    held = model.answer(prepared, max_new_tokens=2, keep_map=True).kept
    assert held.steps[-1].group.tolist() == ask(model, video, ASKED, keep_map=True).kept.steps[-1].group.tolist()
    inputs = model.preprocessor.batch([model.preprocessor.sample(
        [{"role": "user", "content": [{"type": "video", "video": str(video)}, {"type": "text", "text": ASKED}]}],
        model.config,
    )])  # fmt: skip
    with pruned(model.model, model.config) as own:
        model.model.generate(**inputs, max_new_tokens=1)
    assert kept_of(own.samples[0]).steps[-1].group.tolist() == held.steps[-1].group.tolist()


def test_words_of_messages() -> None:
    asking = [{"type": "image", "image": "a.png"}, {"type": "text", "text": "second"}]
    said = [
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "x"},
        {"role": "user", "content": asking},
    ]
    assert words_asked(None, said) == ["second"]
    assert words_asked(["a", "b"], None) == ["a", "b"] and words_asked(None, None) == [""]
