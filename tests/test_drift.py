"""A camera that drifts is a kind of video that is asked for by name; the others keep every pixel and every seed."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from prunevid_qwen.errors import ConfigError
from prunevid_qwen.evaluation.shapes.methods import AccuracyRun
from prunevid_qwen.evaluation.shapes.videos import FIRST_SEED, ShapesVideo
from prunevid_qwen.moving_shapes import FIRST_HELD_OUT_SEED, frame_times, make_questions, make_scene
from prunevid_qwen.moving_shapes.conditions import BY_NAME, CONDITIONS
from prunevid_qwen.moving_shapes.scene import LARGEST_JOLT

PINNED = {
    "plain": "891d643b274a7b731bc774d158d8fb354802e4b7a6c5e4c65aa2c13ee99d9c38",
    "long": "ef26cc8653067bfe3572a9becebae4d31bcd6f23064eb71f4f258a546d310956",
    "clutter": "43ca3ff489a1f82a51b816d53368163c9e161b16776ea38cc33292c7e74081d4",
    "shake": "747704a788e4991cc182d77686a8d91c5ae168d521263a87e2fe9aa5994d62c7",
}
"""Of two videos of each kind before there was a drift: SHA-256 of the frames."""
SEEDS = range(FIRST_HELD_OUT_SEED, FIRST_HELD_OUT_SEED + 30)


@pytest.mark.parametrize("name", CONDITIONS)
def test_the_other_kinds_keep_every_pixel(name: str) -> None:
    found = hashlib.sha256()
    for seed in (FIRST_SEED, FIRST_SEED + 1):
        found.update(ShapesVideo(CONDITIONS[name], seed).frames(CONDITIONS[name].frames).tobytes())
    assert found.hexdigest() == PINNED[name]


def test_a_drift_is_asked_for_by_name_alone() -> None:
    assert "drift" not in CONDITIONS and BY_NAME.keys() - CONDITIONS.keys() == {"drift"}
    assert AccuracyRun(()).conditions == tuple(CONDITIONS)
    chosen = AccuracyRun((), conditions=("plain", "drift"), videos=3).list_videos()
    assert [video.condition.name for video in chosen] == ["plain", "drift", "plain"]
    with pytest.raises(ConfigError, match="drift"):
        AccuracyRun((), conditions=("drifting",))


def test_a_drift_leaves_the_objects_and_questions_as_they_are() -> None:
    for seed in SEEDS:
        still, moving = make_scene(seed), make_scene(seed, drift_share=1.0)
        assert moving.objects == still.objects and make_questions(moving, 0) == make_questions(still, 0)
        assert not still.jolts and make_scene(seed, shake_share=1.0, drift_share=0.0).jolts


def test_the_camera_moves_at_every_temporal_position_on_a_straight_line() -> None:
    for seed in SEEDS:
        scene = BY_NAME["drift"].scene(seed)
        places = scene.offsets(frame_times(16))
        steps = np.diff(places[::2], axis=0)
        assert (np.abs(steps).max(1) >= 1).all() and np.abs(places).max() == LARGEST_JOLT
        assert np.array_equal(places[0], -places[-1])  # through its place, as far on each side
        along = places[-1] - places[0]
        away = np.abs(places - places[0] - np.linspace(0, 1, 16)[:, None] * along)
        assert away.max() < 1.2  # the line and its ends are in whole pixels
        assert np.abs(along).max() == 2 * LARGEST_JOLT


def test_what_stands_still_in_the_scene_moves_less_than_half_as_far_as_what_moves() -> None:
    for seed in SEEDS:
        scene = BY_NAME["drift"].scene(seed)
        speeds = [np.hypot(*item.velocity) for item in scene.objects if item.direction != "still"]
        drifted = np.hypot(*(scene.offsets(np.ones(1)) - scene.offsets(np.zeros(1)))[0])
        assert 2 * LARGEST_JOLT <= drifted < min(speeds, default=28) / 2


def test_most_of_a_drifting_picture_changes_where_most_of_a_shaken_one_stands_still() -> None:
    def unchanged(name: str) -> float:
        frames = ShapesVideo(BY_NAME[name], FIRST_SEED).frames(16)[::2]
        return float((frames[1:] == frames[:-1]).all(-1).mean())

    assert unchanged("shake") > 0.6 > 0.3 > unchanged("drift")
