"""`drop_empty_frames`: a frame that lost all its tokens loses its time and its brackets too."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from prunevid_qwen.adapters import adapter_for
from prunevid_qwen.adapters.seams import cache_of
from prunevid_qwen.adapters.tiny import END, IMAGE, START
from prunevid_qwen.adapters.tiny.qwen import CLOSES, OPENS
from prunevid_qwen.config import PruneVidConfig, Reading
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.forward.hooks import pruned
from prunevid_qwen.forward.plan import Plan, Step
from prunevid_qwen.receipt import receipt
from prunevid_qwen.reducer import Evidence, Needs
from prunevid_qwen.stage2_select import FastV, Uniform
from prunevid_qwen.tokens import TokenLayout, TokenMap
from prunevid_qwen.tokens.trace import DOOR
from tests.families import FAMILIES, family_inputs, family_model, member
from tests.models import EOS
from tests.pruned_generation import text_follow_up
from tests.test_family_oracles import config, generate, identical, keep, oracle
from tests.test_qwen3_vl import FAMILY, KINDS, layout_in
from tests.tolerances import LOGITS, close

pytestmark = pytest.mark.usefixtures("scores_apart")


class KeepsFrames:
    """Keeps every second token of some frames of each video, and nothing of the others; whole images."""

    needs = Needs()

    def __init__(self, *frames: int) -> None:
        self.frames = frames

    def plan(self, seen: Evidence) -> TokenMap:
        cells, kept = seen.layout.cell_of, []
        for block in seen.layout.blocks:
            at = torch.arange(block.start, block.stop)
            frame = cells[at] // (block.grid[1] * block.grid[2])
            inside = torch.isin(frame, torch.tensor(self.frames)) & (cells[at] % 2 == 0)
            kept.append(at if block.kind == "image" else at[inside])
        return TokenMap.keep(torch.cat(kept), seen.hidden.shape[0])


class IntoFrame:
    """Merges the tokens of all frames of a video into those of one."""

    needs = Needs()

    def __init__(self, frame: int) -> None:
        self.frame = frame

    def plan(self, seen: Evidence) -> TokenMap:
        maps = []
        for block in seen.layout.blocks:
            n, size = block.stop - block.start, block.grid[1] * block.grid[2]
            target = torch.arange(n) % size
            rep = torch.arange(size) + self.frame * size
            maps.append(TokenMap.identity(n) if block.kind == "image" else TokenMap(target, rep))
        return TokenMap.concat(maps)


EMPTIES = {
    "a cut": ((Step(2, KeepsFrames(1)),), True),
    "a cut, whole caches": ((Step(3, KeepsFrames(0)),), False),
    "two cuts": ((Step(0, KeepsFrames(0, 1)), Step(3, KeepsFrames(1))), True),
    "two cuts, whole caches": ((Step(1, KeepsFrames(1, 2)), Step(4, KeepsFrames(1))), False),
    "the door": ((Step(DOOR, IntoFrame(1)),), False),
    "the door and a cut": ((Step(DOOR, IntoFrame(1)), Step(2, FastV(keep_ratio=0.5))), True),
    "the last frame alone": ((Step(2, KeepsFrames(1, 3)),), True),
}


@KINDS
@pytest.mark.parametrize("case", EMPTIES)
def test_dropping_empty_frames_equals_masking_their_text_too(family: str, case: str) -> None:
    steps, compress = EMPTIES[case]
    plan = Plan(steps, compress=compress, drop_empty_frames=True)
    model = family_model(family)
    with pruned(model, plan) as trace:
        out = generate(model, family_inputs(family, "batch"), 6)
    assert any(each.text is not None for each in trace.samples[0].reductions)
    for b, logits in enumerate(oracle(family, "batch", out, trace, "reference", compress)):
        close(torch.stack(out.logits, 1)[b], logits, LOGITS, msg=lambda m, b=b: f"sample {b}: {m}")


@pytest.mark.parametrize("kept", [(0,), (1,), (3,), (1, 2), (0, 2, 3)])
def test_exactly_the_text_of_empty_frames_goes(kept: tuple[int, ...]) -> None:
    model, inputs = family_model(FAMILY), family_inputs(FAMILY, "one")
    ids = inputs["input_ids"][0].tolist()
    starts = [at for at, token in enumerate(ids) if token == OPENS]
    wanted = []
    for frame, at in enumerate(starts):
        opening = ids.index(START, at)
        assert ids[opening - 1] == CLOSES and ids[opening + 21] == END
        if frame not in kept:
            wanted += [*range(at, opening + 1), opening + 21]
    with pruned(model, Plan((Step(2, KeepsFrames(*kept)),), drop_empty_frames=True)) as trace:
        generate(model, inputs, 1)
    (done,) = trace.samples[0].reductions
    assert done.text is not None and done.text.tolist() == wanted and done.frames == 4 - len(kept)
    assert trace.cache_lengths == (len(ids) - 80 + 10 * len(kept) - len(wanted),) * 6


def test_every_copy_and_member_of_a_batch_loses_the_same() -> None:
    model, plan = family_model(FAMILY), Plan((Step(1, KeepsFrames(1)),), drop_empty_frames=True)
    with pruned(model, plan) as trace:
        together = generate(model, family_inputs(FAMILY, "batch"))
        samples = trace.samples
        for b, sample in enumerate(samples):
            alone = generate(model, member(FAMILY, "batch", b))
            close(torch.stack(together.logits, 1)[b], torch.stack(alone.logits, 1)[0], LOGITS)
            assert [each.frames for each in sample.reductions] == [each.frames for each in trace.samples[0].reductions]
        generate(model, family_inputs(FAMILY, "one"), mode="beam")
        assert {sample.reductions[0].frames for sample in trace.samples} == {3}
    assert [[each.frames for each in sample.reductions] for sample in samples] == [[3], [1], []]


def test_nothing_empty_is_the_stock_model() -> None:
    plan = keep(FAMILY)
    config_ = plan.replace(drop_empty_frames=True)
    identical(FAMILY, "batch", "greedy", config_, family_model(FAMILY))


def test_a_text_follows_up_on_fewer_frames() -> None:
    model, inputs = family_model(FAMILY), family_inputs(FAMILY, "one")
    for compress in (True, False):
        plan = Plan((Step(2, KeepsFrames(1)),), compress=compress, drop_empty_frames=True)
        second, trace = text_follow_up(model, inputs, plan)
        wanted = oracle(FAMILY, "one", second, trace, "reference", compress)[0]
        close(torch.stack(second.logits, 1)[0], wanted[-4:], LOGITS)


def test_the_question_begins_behind_the_last_frame() -> None:
    inputs = member(FAMILY, "batch", 0)
    ids = inputs["input_ids"][0]
    ids[-2] = EOS  # the end of the user's turn
    adapter = adapter_for(family_model(FAMILY))
    plain = adapter.layout(ids, None, len(ids), adapter.pictures("video", inputs, None) or ())
    framed = layout_in(inputs)
    assert plain is not None and plain.words is not None and framed.words is not None
    assert ids[plain.question[0]] == END and torch.equal(framed.question, plain.question[1:])
    for tokens in ("question", "last"):
        assert torch.equal(framed.asking(tokens), plain.asking(tokens))


def test_a_bracket_that_is_all_of_the_question_stays() -> None:
    inputs = member(FAMILY, "batch", 0)
    inputs["input_ids"] = inputs["input_ids"][:, :-6]
    layout = layout_in(inputs)
    assert layout.frames is not None
    assert layout.question.tolist() == [inputs["input_ids"].shape[1] - 1] and int(layout.frames[-1]) == -1


def changed(inputs: dict[str, Tensor], at: int, token: int) -> TokenLayout:
    ids = inputs["input_ids"].clone()
    ids[0, at] = token
    return layout_in({**inputs, "input_ids": ids})


def test_a_first_frame_whose_time_is_not_found_keeps_its_text() -> None:
    inputs = member(FAMILY, "batch", 0)
    first = inputs["input_ids"][0].tolist().index(OPENS)
    layout, plain = changed(inputs, first, 40), layout_in(inputs)
    assert layout.frames is not None and plain.frames is not None
    assert int(plain.frames[first]) == 0 and 0 not in layout.frames
    assert torch.equal(layout.frames.clamp(min=0), plain.frames.clamp(min=0))


def test_brackets_around_the_whole_video_stay() -> None:
    """As the processors of newer releases write them."""
    inputs = member(FAMILY, "batch", 0)
    ids = inputs["input_ids"][0].tolist()
    first, last = ids.index(OPENS), len(ids) - ids[::-1].index(END)
    plain = layout_in(inputs).frames
    whole = torch.tensor([[*ids[:first], START, *ids[first:last], END, *ids[last:]]])
    layout = layout_in({**inputs, "input_ids": whole})
    assert layout.frames is not None and plain is not None
    none = torch.tensor([-1])
    assert torch.equal(layout.frames, torch.cat([plain[:first], none, plain[first:last], none, plain[last:]]))
    assert int(layout.question[0]) == last + 1


def test_a_frame_without_brackets_keeps_its_text() -> None:
    inputs = member(FAMILY, "batch", 0)
    second = [at for at, token in enumerate(inputs["input_ids"][0].tolist()) if token == START][1]
    frames = changed(inputs, second, 40).frames
    assert frames is not None and set(frames.tolist()) == {-1, 0, 2, 3}


def test_images_keep_their_brackets() -> None:
    layout = layout_in(member(FAMILY, "batch", 1))
    image = (member(FAMILY, "batch", 1)["input_ids"][0] == IMAGE).nonzero()[:, 0]
    assert layout.frames is not None
    assert set(layout.frames[int(image[0]) - 1 : int(image[-1]) + 2].tolist()) == {-1}
    assert set(layout.frames.tolist()) == {-1, 0, 1}


@pytest.mark.parametrize("family", [name for name in FAMILIES if not name.startswith("qwen3")])
def test_families_without_timestamps_refuse(family: str) -> None:
    adapter = adapter_for(family_model(family))
    assert not adapter.timestamped
    for what in (config(family, drop_empty_frames=True), Plan((Step(2, Uniform(0.5)),), drop_empty_frames=True)):
        with pytest.raises(ConfigError, match="drop_empty_frames"), pruned(family_model(family), what):
            pass


def test_the_option_in_a_config() -> None:
    on = PruneVidConfig(drop_empty_frames=True)
    assert on.reading == Reading(drop_empty_frames=True) == PruneVidConfig(reading=on.reading).reading
    assert (
        on == PruneVidConfig(**{"reading.drop_empty_frames": True}) == PruneVidConfig().replace(drop_empty_frames=True)
    )
    assert on != PruneVidConfig()
    for again in (PruneVidConfig.from_dict(on.to_dict()), PruneVidConfig.from_record(on.flat())):
        assert again == on
    assert on.flat() == {**PruneVidConfig().flat(), "reading.drop_empty_frames": True}
    for wrong in (lambda: Reading(drop_empty_frames=1), lambda: Plan(drop_empty_frames="yes")):  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="drop_empty_frames"):
            wrong()


def test_the_receipt_says_what_went() -> None:
    model, inputs = family_model(FAMILY), family_inputs(FAMILY, "one")
    plan = Plan((Step(1, KeepsFrames(0, 1)), Step(3, KeepsFrames(1))), compress=False, drop_empty_frames=True)
    with pruned(model, plan) as trace:
        out = generate(model, inputs, 1)
    seconds = {"read": 0.0, "total": 0.0}
    stats = receipt(trace, 0, plan, [], [], inputs["input_ids"].shape[1], {}, seconds, 1)
    assert [(row["frames_dropped"], row["text_dropped"]) for row in stats["steps"]] == [(2, 11), (1, 5)]
    length = inputs["input_ids"].shape[1]
    lengths = [length] * 2 + [length - 60 - 11] * 2 + [length - 70 - 16] * 2
    assert stats["stage3"]["cache_lengths"] == lengths == list(trace.cache_lengths)
    assert stats["plan"]["drop_empty_frames"] is True
    assert [layer.keys.shape[2] for layer in cache_of(out).layers] == lengths
