"""Which frames are chosen, from timestamps alone."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prunevid_qwen.errors import ConfigError, MediaError
from prunevid_qwen.video.sampling import check_request, choose_frames, frames_in_range


def at_rate(count: int, fps: float) -> list[float]:
    return [i / fps for i in range(count)]


def test_uniform_takes_the_nearest_frames_with_both_ends():
    # 48 frames, 8 times: 0, 6.71, 13.43, 20.14, 26.86, 33.57, 40.29, 47 frames.
    assert choose_frames(at_rate(48, 24), 1 / 24, max_frames=8) == [0, 7, 13, 20, 27, 34, 40, 47]


def test_a_tie_goes_to_the_earlier_frame():
    # 3 times over 6 frames: the middle one is 2.5 frames, equally near to 2 and 3, whatever the rate.
    for fps in (24, 25, 29.97, 30, 1000 / 41):
        assert choose_frames(at_rate(6, fps), 1 / fps, max_frames=3) == [0, 2, 5]


@pytest.mark.parametrize(
    ("count", "fps", "most", "expected"), [(48, 2.0, 16, 4), (48, 2.0, 3, 3), (48, 0.1, 16, 2), (49, 1.0, 16, 2)]
)
def test_fps_takes_so_many_a_second_up_to_the_limit_and_at_least_two(count, fps, most, expected):
    assert len(choose_frames(at_rate(count, 24), 1 / 24, max_frames=most, sampling="fps", fps=fps)) == expected


def test_fps_counts_whole_frames_despite_rounding():
    # 56 frames at 24 a second are 7/3 s, at 3 a second 7 frames: in floats the product is 6.999999999999999.
    seconds = at_rate(56, 24)
    lasts = seconds[-1] / 55
    assert (seconds[-1] + lasts) * 3 < 7
    assert len(choose_frames(seconds, lasts, max_frames=16, sampling="fps", fps=3.0)) == 7


@settings(deadline=None)
@given(st.lists(st.integers(1, 5000), max_size=60), st.integers(2, 20))
def test_every_choice_is_a_nearest_frame(gaps, most):
    seconds = [0.0]
    for gap in gaps:
        seconds.append(seconds[-1] + gap / 1000)
    chosen = choose_frames(seconds, 0.04, max_frames=most)
    if len(seconds) <= most:
        assert chosen == list(range(len(seconds)))
        return
    assert len(chosen) == most and chosen == sorted(chosen) and chosen[0] == 0 and chosen[-1] == len(seconds) - 1
    for i, pick in enumerate(chosen):
        wanted = seconds[-1] * i / (most - 1)
        assert abs(seconds[pick] - wanted) <= min(abs(s - wanted) for s in seconds) + 1e-8


def test_a_range_holds_the_frames_on_its_edges_despite_milliseconds():
    # Matroska rounds 1/24 s to 42 ms.
    rounded = [round(i / 24, 3) for i in range(48)]
    assert frames_in_range(rounded, 2.0, 0.5, 1.0, "x.mkv") == (12, 24)
    assert frames_in_range(rounded, 2.0, 2 / 24, 99.0, "x.mkv") == (2, 47)  # at 0.083, asked from 0.08333
    assert frames_in_range(rounded, 2.0, None, 1 / 24, "x.mkv") == (0, 1)  # at 0.042, asked up to 0.04167


def test_a_range_without_frames_says_where_the_nearest_is():
    with pytest.raises(MediaError, match=r"x\.mp4 has no frame between 0\.5 s and 0\.9 s .*begins at 1\.000 s.*widen"):
        frames_in_range([0.0, 1.0, 2.0], 3.0, 0.5, 0.9, "x.mp4")
    with pytest.raises(MediaError, match=r"start=3 s is beyond x\.mp4, which lasts 3\.00 s"):
        frames_in_range([0.0, 1.0, 2.0], 3.0, 3.0, None, "x.mp4")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"start": 2.0, "end": 2.0}, "end=2 is not after start=2"),
        ({"end": 0.0}, "end=0 is not after start=0"),
        ({"start": -1.0}, "start is in seconds .* 0 or more; got -1.0"),
        ({"end": float("nan")}, "end is in seconds .* got nan"),
        ({"max_frames": 1}, "max_frames is a whole number of at least 2, got 1"),
        ({"max_frames": 8.0}, "max_frames is a whole number"),
        ({"sampling": "random"}, "video_sampling is one of uniform, fps; got 'random'"),
        ({"fps": 0}, "fps is a number above 0, got 0"),
    ],
)
def test_a_wrong_request_is_a_config_error(changes, said):
    with pytest.raises(ConfigError, match=said):
        check_request(**{"max_frames": 16, "sampling": "uniform", "fps": 2.0, "start": None, "end": None, **changes})
