"""The accuracy benchmark's asking: the same answers as without its short cuts, and figures that can be checked."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from prunevid_qwen import get_baseline_config, pruned
from prunevid_qwen.adapters.vision import vision_from_memory
from prunevid_qwen.evaluation.shapes.accuracy import ask, calibrate
from prunevid_qwen.evaluation.shapes.methods import AccuracyRun, methods_called
from prunevid_qwen.evaluation.shapes.videos import FIRST_SEED, Questioner, ShapesVideo, evidence_recall
from prunevid_qwen.forward import hooks
from prunevid_qwen.forward.plan import compile_plan
from prunevid_qwen.inputs.qwen.media import Medium
from prunevid_qwen.inputs.qwen.pixels import video_pixels
from prunevid_qwen.moving_shapes import boxes
from prunevid_qwen.moving_shapes.conditions import CONDITIONS
from prunevid_qwen.reducer import Evidence, Needs, Reducer
from prunevid_qwen.tokens import TokenMap
from tests.accuracy_model import MERGE, PLAIN, VIDEO, asked, bundled

from .tolerances import LOGITS, close, tokens_apart

# ---- one encoding for many questions


def test_shared_vision_gives_the_answers_and_logits_of_encoding_every_row() -> None:
    model, questions = bundled(), VIDEO.questions(4)
    pixels, grid = video_pixels(VIDEO.frames(16), model.preprocessor.media.video)
    medium = Medium("video", pixels, grid, 1.0, {})
    look = Questioner(model, VIDEO, questions).look(MERGE)

    def generate(shown: Medium):
        samples = []
        for question in questions:
            content = [{"type": "video", "video": shown}, {"type": "text", "text": question.text}]
            samples.append(model.preprocessor.sample([{"role": "user", "content": content}], MERGE))
        inputs = model.preprocessor.batch(samples)
        with pruned(model.model, MERGE) as trace:
            out = model.model.generate(
                **inputs, max_new_tokens=2, do_sample=False, output_logits=True, return_dict_in_generate=True
            )
        return out, trace

    plain, plain_trace = generate(medium)
    with vision_from_memory(model.model.model.visual, look.held):
        shared, shared_trace = generate(look.medium)
    tokens_apart(plain.logits)
    assert torch.equal(shared.sequences, plain.sequences)
    for ours, theirs in zip(shared.logits, plain.logits, strict=True):
        close(ours, theirs, LOGITS)
    for ours, theirs in zip(shared_trace.kept, plain_trace.kept, strict=True):
        assert torch.equal(ours, theirs)


def test_shared_vision_refuses_another_grid_and_leaves_no_trace() -> None:
    model = bundled()
    look = Questioner(model, VIDEO, VIDEO.questions(1)).look(MERGE)
    tower = model.model.model.visual
    with pytest.raises(ValueError, match="grid"), vision_from_memory(tower, look.held):
        tower(look.medium.pixels[:128], grid_thw=torch.tensor([[2, 8, 8]]))
    assert "forward" not in vars(tower)


def test_a_batch_answers_as_single_questions_do() -> None:
    questions = VIDEO.questions(4)
    together = Questioner(bundled(), VIDEO, questions).ask(MERGE)
    for question, one in zip(questions, together, strict=True):
        alone = Questioner(bundled(), VIDEO, [question]).ask(MERGE)[0]
        assert {**alone, "question": one["question"]} == one


def test_keeping_everything_answers_as_unpruned() -> None:
    questioner = Questioner(bundled(), VIDEO, VIDEO.questions(6))
    off = get_baseline_config().replace(max_pixels=112 * 112)
    all_kept = MERGE.replace(tau=1.0, cluster_ratio=1.0, keep_ratio=1.0)
    unpruned, kept = questioner.ask(off), questioner.ask(all_kept)
    assert kept == unpruned and all(
        set(each["tokens"]) == {128} and each["evidence_kept"] in (1, None) for each in kept
    )


def test_through_files_the_package_reads_the_same_video() -> None:
    questioner = Questioner(bundled(), VIDEO, VIDEO.questions(2), through_files=True)
    config = get_baseline_config().replace(max_pixels=112 * 112)
    encoded = questioner.look(config)
    drawn = Questioner(bundled(), VIDEO, VIDEO.questions(2)).look(config)
    assert encoded.medium.grid.tolist() == drawn.medium.grid.tolist() == [[8, 8, 8]]
    assert encoded.medium.facts["backend"] == "pyav" and encoded.medium.facts["size"] == [224, 224]
    assert encoded.medium.seconds_per_grid == pytest.approx(1.0, rel=0.02)
    likeness = torch.cosine_similarity(encoded.features, drawn.features)
    assert float(likeness.median()) > 0.9  # compression and moments differ a little


@pytest.mark.parametrize("name", CONDITIONS)
def test_smaller_frames_have_exactly_the_size_asked_for(name: str) -> None:
    condition = CONDITIONS[name]
    questioner = Questioner(bundled(), ShapesVideo(condition, FIRST_SEED), [])
    for setting in asked("smaller frames").settings(condition):
        config = asked("smaller frames").base_config(condition).replace(max_frames=2, **setting)
        pixels = questioner._medium(config).grid[0, 1:] * 14
        assert int(pixels.prod()) == setting["max_pixels"]


class PlansOnce:
    """Counts how often stage 1 is decided."""

    def __init__(self, inner: Reducer, question: bool) -> None:
        self.inner, self.needs, self.calls = inner, Needs(question=question), 0

    def plan(self, seen: Evidence) -> TokenMap:
        self.calls += 1
        assert bool(seen.question.shape[0]) == bool(self.needs.question)
        return self.inner.plan(seen)


@pytest.mark.parametrize("reads_the_question", [False, True])
def test_stage_1_decides_once_for_all_questions_about_a_video(
    reads_the_question: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Questioner(bundled(), VIDEO, VIDEO.questions(4)).ask(MERGE)
    plan = compile_plan(MERGE, bundled().model.config.text_config.num_hidden_layers)
    assert plan.door is not None
    counting = PlansOnce(plan.door.by, reads_the_question)
    steps = (replace(plan.door, by=counting), *plan.cuts)
    monkeypatch.setattr(hooks, "plan_of", lambda *_: replace(plan, steps=steps))
    after = Questioner(bundled(), VIDEO, VIDEO.questions(4)).ask(MERGE)
    assert counting.calls == (4 if reads_the_question else 1)
    assert after == before


# ---- what a line says


def test_a_line_says_what_the_receipt_says() -> None:
    config = MERGE.replace(keep_ratio=0.3)
    line = Questioner(bundled(), VIDEO, VIDEO.questions(2)).ask(config)[0]
    own = bundled().with_config(config).generate(VIDEO.frames(16), line["text"], max_new_tokens=1)
    tokens = own["stats"]["tokens"]
    assert line["visual"] == tokens["visual"] == 128
    assert line["layer_average"] == pytest.approx(tokens["layer_average"] / tokens["visual"], abs=1e-6)
    assert sorted(set(line["tokens"]), reverse=True) == [tokens["after_stage1"], tokens["after_stage2"]]
    assert line["tokens"].count(tokens["after_stage1"]) == own["stats"]["stage2"]["layer"] + 1
    assert line["kept"] == line["retained"] == pytest.approx(tokens["after_stage2"] / 128, abs=1e-6)
    assert (line["seed"], line["condition"]) == (FIRST_SEED, "plain")


def test_fewer_frames_count_against_the_whole_video_and_have_no_recall() -> None:
    config = asked("fewer frames").base_config(PLAIN).replace(max_frames=4)
    line = Questioner(bundled(), VIDEO, VIDEO.questions(1)).ask(config)[0]
    assert (line["visual"], line["layer_average"], line["kept"], line["evidence_kept"]) == (128, 0.25, 0.25, None)


def test_a_blank_video_is_grey_and_asked_the_same() -> None:
    blank = ShapesVideo(PLAIN, FIRST_SEED, blank=True)
    assert set(blank.frames(4).ravel()) == {128} and blank.frames(4).shape == VIDEO.frames(4).shape
    assert blank.questions(4) == VIDEO.questions(4)
    config = get_baseline_config().replace(max_pixels=112 * 112)
    lines = Questioner(bundled(), blank, blank.questions(4)).ask(config)
    assert {(line["layer_average"], line["evidence_kept"]) for line in lines} == {(1.0, None)}
    same = "seed", "condition", "question", "text", "expected"
    seen = Questioner(bundled(), VIDEO, VIDEO.questions(4)).ask(config)
    assert [[line[key] for key in same] for line in lines] == [[line[key] for key in same] for line in seen]


def test_grey_is_shown_to_blank_alone() -> None:
    run = AccuracyRun((), questions=8, calibration_videos=1)
    cells = [cell for method in methods_called(["unpruned", "blank"]) for cell in calibrate(run, "plain", method)]
    said = ask(run, VIDEO, cells)
    right = {name: [line["correct"] for line in said if line["method"] == name] for name in ("unpruned", "blank")}
    assert len(right["blank"]) == len(right["unpruned"]) and sum(right["blank"]) < sum(right["unpruned"])


def test_evidence_recall_counts_merged_evidence_by_its_share() -> None:
    # six tokens: 0 and 1 merged, 2 kept, 3 dropped, 4 and 5 merged
    left = TokenMap(torch.tensor([0, 0, 1, -1, 2, 2]), torch.tensor([0, 2, 4]))
    shows = np.array([[1, 0, 1, 1, 0, 0]], bool)
    assert evidence_recall(left, shows) == pytest.approx((0.5 + 1 + 0) / 3)
    # merged with another token of the same object it is whole; an object apart does not help
    assert evidence_recall(left, np.array([[1, 1, 0, 0, 0, 0]], bool)) == pytest.approx(1.0)
    two = np.array([[1, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0]], bool)
    assert evidence_recall(left, two) == pytest.approx(0.5)
    assert evidence_recall(left, np.zeros((1, 6), bool)) is None


@pytest.mark.parametrize("seed", range(FIRST_SEED, FIRST_SEED + 4))
def test_evidence_is_where_the_boxes_are(seed: int) -> None:
    video = ShapesVideo(PLAIN, seed)
    for question in video.questions(12):
        picture = np.zeros((len(question.objects), 16, 112, 112), bool)
        for k, number in enumerate(question.objects):
            for f, (x0, y0, x1, y1) in enumerate(boxes(video.scene, 16)[number]):
                picture[k, f, max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)] = True
        cover = picture.reshape(-1, 8, 2, 4, 28, 4, 28).mean((2, 4, 6))
        assert (video.shows(question) == (cover.reshape(-1, 128) > 0.12)).all()
