"""The synthetic videos: the same from the same seed, and right about what they show."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from prunevid_qwen.moving_shapes import (
    COLORS,
    DIRECTIONS,
    FIRST_HELD_OUT_SEED,
    background,
    boxes,
    make_questions,
    make_scene,
    render,
    sample_questions,
    write_frames,
    write_video,
)

SEEDS = range(FIRST_HELD_OUT_SEED, FIRST_HELD_OUT_SEED + 60)
PINNED = "706c229319adab7cb20a4e221b6ff578116645e1c91f06bc6fc819adef5e423f"


def test_a_seed_always_gives_the_same_bytes():
    frames = render(make_scene(FIRST_HELD_OUT_SEED))
    assert frames.shape == (16, 112, 112, 3) and frames.dtype == np.uint8
    assert np.array_equal(frames, render(make_scene(FIRST_HELD_OUT_SEED)))
    assert hashlib.sha256(frames.tobytes()).hexdigest() == PINNED
    assert not np.array_equal(frames, render(make_scene(FIRST_HELD_OUT_SEED + 1)))


def test_the_same_scene_is_drawn_at_any_rate_and_size():
    scene = make_scene(FIRST_HELD_OUT_SEED, height=84, width=140)
    assert np.array_equal(render(scene, 31)[::2], render(scene, 16))
    large = render(scene, 16, scale=2)
    assert large.shape == (16, 168, 280, 3)
    shrunk = large.reshape(16, 84, 2, 140, 2, 3).mean((2, 4))
    assert np.abs(shrunk - render(scene, 16)).mean() < 4
    assert np.abs(boxes(scene, 16, scale=2) - 2 * boxes(scene, 16)).max() <= 4


@pytest.mark.parametrize("seed", SEEDS)
def test_boxes_lie_in_the_frame_and_hold_the_object(seed):
    scene = make_scene(seed)
    frames, found, still = render(scene), boxes(scene), background(scene).astype(int)
    for k, item in enumerate(scene.objects):
        seen = found[k, :, 0] >= 0
        assert seen.sum() >= 2
        for f in np.flatnonzero(seen):
            x0, y0, x1, y1 = found[k, f]
            assert 0 <= x0 < x1 <= 112 and 0 <= y0 < y1 <= 112
            inside = frames[f, y0:y1, x0:x1].astype(int)
            near = np.abs(inside - np.array(COLORS[item.color])).max(-1) <= 16  # its colour, give or take the tint
            assert near.mean() > 0.2  # a ring and a star fill the least of their box
    covered = np.zeros(frames.shape[:3], bool)
    for f in range(16):
        for x0, y0, x1, y1 in found[:, f][found[:, f, 0] >= 0]:
            covered[f, max(y0 - 3, 0) : y1 + 3, max(x0 - 3, 0) : x1 + 3] = True  # tips cover few of a pixel
    assert np.abs(frames - still)[~covered].max() == 0  # nothing is drawn outside the boxes


@pytest.mark.parametrize("seed", SEEDS)
def test_answers_agree_with_the_scene(seed):
    scene = make_scene(seed)
    assert len({item.color for item in scene.objects}) == len({item.shape for item in scene.objects})
    centers = (boxes(scene)[..., :2] + boxes(scene)[..., 2:]) / 2  # [objects, 16, 2]
    first_seen = [int(np.flatnonzero(box[:, 0] >= 0)[0]) for box in boxes(scene)]
    questions = make_questions(scene, seed=0)
    for question in questions:
        about = [scene.objects[k] for k in question.objects]
        if question.type in ("color", "shape", "brief"):
            assert question.word == (about[0].color if "color is" in question.text else about[0].shape)
        if question.type == "brief":
            assert (boxes(scene)[question.objects[0], :, 0] >= 0).sum() <= 4
        if question.type == "direction":
            k = question.objects[0]
            seen = np.flatnonzero(boxes(scene)[k, :, 0] >= 0)
            moved = centers[k, seen[-1]] - centers[k, seen[0]]
            wanted = np.array(DIRECTIONS[question.word])
            assert np.abs(moved - wanted * np.abs(moved).max()).max() <= 1.5
            assert question.word == "still" or moved @ wanted > 4
        if question.type in ("first", "last"):
            rank = sorted(first_seen) if question.type == "first" else sorted(first_seen, reverse=True)
            assert first_seen[question.objects[0]] == rank[0] and abs(rank[0] - rank[1]) >= 2
        if question.type == "count":
            assert question.word == ("zero", "one", "two", "three")[len(scene.objects)]
        if question.type == "exists":
            color, shape = question.text.rstrip("?").split()[-2:]
            present = (color, shape) in {(item.color, item.shape) for item in scene.objects}
            assert question.word == ("yes" if present else "no")
    assert {"color", "shape", "count", "exists"} <= {question.type for question in questions}


def test_a_letter_stands_for_the_right_option():
    for seed in SEEDS:
        for question in make_questions(make_scene(seed), seed=1, multiple_choice=True):
            assert question.multiple_choice and question.answer_prefix == "Best option: ("
            assert question.options["ABCD".index(question.answer)] == question.word
            assert f"({question.answer}) {question.word}" in question.text.splitlines()
            assert len(set(question.options)) == len(question.options)


def test_questions_can_be_weighted_and_restricted():
    scene = make_scene(FIRST_HELD_OUT_SEED)
    rng = np.random.default_rng(0)
    drawn = sample_questions(scene, rng, 400, types=("color", "count"), weights={"color": 3.0})
    assert {question.type for question in drawn} == {"color", "count"}
    assert 0.65 < np.mean([question.type == "color" for question in drawn]) < 0.85
    pictures = sample_questions(scene, rng, 200, moving=False)
    assert not {"direction", "last", "first", "brief"} & {question.type for question in pictures}


def test_clauses_ask_the_same_in_other_words():
    scene = make_scene(next(seed for seed in SEEDS if any(item.brief for item in make_scene(seed).objects)))
    short, long = (
        {(q.type, q.text, q.word) for q in sample_questions(scene, np.random.default_rng(0), 300, clauses=clauses)}
        for clauses in (False, True)
    )
    assert {text for kind, text, _ in long if kind == "brief"} == {
        "What color is the object that appears briefly?",
        "What shape appears briefly?",
    }
    assert {(kind, word) for kind, _, word in short} == {(kind, word) for kind, _, word in long}


def test_training_never_sees_a_held_out_seed():
    from research.bundled_model import batches

    taken = []
    real = batches.make_scene
    try:
        batches.make_scene = lambda seed, *rest, **named: (taken.append(seed), real(seed, *rest, **named))[1]
        phase = batches.VisionPhase("vision", steps=3, videos=4)
        for step in range(3):
            batches.VisionBatches(phase, (0, 0))[step]
    finally:
        batches.make_scene = real
    assert len(taken) == 12 and max(taken) < FIRST_HELD_OUT_SEED


@pytest.mark.parametrize(("name", "tolerance"), [("clip.mp4", 4.0), ("clip.webm", 5.0), ("clip.gif", 4.0)])
def test_a_written_file_shows_the_frames(tmp_path, name, tolerance):
    av = pytest.importorskip("av")
    frames = render(make_scene(FIRST_HELD_OUT_SEED), 12)
    with av.open(str(write_video(tmp_path / name, frames, fps=8))) as container:
        back = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    assert back.shape == frames.shape
    assert np.abs(back.astype(int) - frames).mean() < tolerance


def test_a_frame_folder_is_lossless_and_in_order(tmp_path):
    av = pytest.importorskip("av")
    frames = render(make_scene(FIRST_HELD_OUT_SEED), 5)
    files = sorted(write_frames(tmp_path / "frames", frames).iterdir())
    assert [file.name for file in files] == [f"frame_{number:04d}.png" for number in range(5)]
    for file, frame in zip(files, frames, strict=True):
        with av.open(str(file)) as container:
            assert np.array_equal(next(container.decode(video=0)).to_ndarray(format="rgb24"), frame)


def test_mistakes_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"\.avi"):
        write_video(tmp_path / "clip.avi", render(make_scene(0), 4))
    with pytest.raises(ValueError, match="uint8"):
        write_video(tmp_path / "clip.mp4", np.zeros((4, 28, 28, 3)))
    with pytest.raises(ValueError, match="multiples of 28"):
        make_scene(0, height=100)


def test_cuts_jolts_and_dots_leave_the_objects_as_they_are():
    plain = make_scene(FIRST_HELD_OUT_SEED)
    busy = make_scene(FIRST_HELD_OUT_SEED, cut_share=1.0, shake_share=1.0, most_distractors=3)
    assert busy.objects == plain.objects and make_questions(busy, 0) == make_questions(plain, 0)
    assert len(busy.cuts) == 1 and 1 <= len(busy.jolts) <= 3
    assert not plain.cuts and not plain.jolts and not plain.distractors


def test_a_cut_changes_the_background_from_its_moment_on():
    scene = replace(make_scene(FIRST_HELD_OUT_SEED), objects=(), cuts=(0.5,))
    frames = render(scene, np.array([0.0, 0.49, 0.5, 1.0]))
    assert np.array_equal(frames[0], background(scene)) and np.array_equal(frames[0], frames[1])
    assert np.array_equal(frames[2], background(scene, number=1)) and np.array_equal(frames[2], frames[3])
    assert np.abs(frames[0].astype(int) - frames[2]).mean() > 5


@pytest.mark.parametrize("scale", [1, 2])
def test_a_jolt_moves_everything_and_the_boxes(scale):
    still = make_scene(FIRST_HELD_OUT_SEED + 3, most_distractors=3)
    shaken = replace(still, jolts=((0.5, 3, -2),))
    before, after = render(still, 16, scale), render(shaken, 16, scale)
    assert np.array_equal(before[:8], after[:8])
    x, y = 3 * scale, 2 * scale
    assert np.array_equal(after[8:, : -2 * y, 2 * x :], before[8:, y:-y, x:-x])
    found, moved = boxes(still, 16, scale), boxes(shaken, 16, scale)
    seen = (moved[:, 8:, 0] > 0) & (moved[:, 8:, 1] > 0) & (moved[:, 8:, 2] < 112 * scale)
    assert seen.any()
    assert ((moved - found)[:, 8:][seen] == np.array([x, -y, x, -y])).all()


def test_dots_are_dark():
    scenes = (make_scene(FIRST_HELD_OUT_SEED + number, most_distractors=3) for number in range(20))
    scene = replace(next(scene for scene in scenes if scene.distractors), objects=())
    frame = render(scene, np.array([0.0]))[0]
    x, y = (round(part) for part in scene.distractors[0].origin)
    assert frame[y, x].max() <= 45 and background(scene).min() >= 30
