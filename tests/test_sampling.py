"""Which frames are chosen, from timestamps alone."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from prunevid_qwen.errors import ConfigError, MediaError
from prunevid_qwen.video import sampling
from prunevid_qwen.video.sampling import check_request, frames_in_range


def choose_frames(*given, **options):
    return list(sampling.choose_frames(*given, **options).indices)


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
@given(st.lists(st.floats(0.9, 1.1), max_size=60), st.integers(2, 20))
@example([1.0625, 1.0625, 1.0625, 1.09375, 1.09375, 1.09375, 1.0625], 8)  # a steady rate, and not the one that is said
@example([0.9] * 9 + [1.1] * 9, 20)
def test_every_choice_is_a_nearest_frame_under_one_rate(gaps, most):
    seconds = [0.0]
    for gap in gaps:
        seconds.append(seconds[-1] + 0.04 * gap)
    chosen = choose_frames(seconds, 0.04, max_frames=most)
    if len(seconds) <= most:
        mean = seconds[-1] / max(1, len(gaps))
        late = max(abs(at - i * mean) for i, at in enumerate(seconds))
        if late < 0.49 * mean:  # else differences add up to another frame, and equal times repeat one
            assert chosen == list(range(len(seconds)))
        return
    assert len(chosen) == most and chosen == sorted(chosen) and chosen[0] == 0 and chosen[-1] == len(seconds) - 1
    for i, pick in enumerate(chosen):
        wanted = seconds[-1] * i / (most - 1)
        assert abs(seconds[pick] - wanted) <= min(abs(s - wanted) for s in seconds) + 1e-8


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 5000), min_size=1, max_size=60),
    st.integers(2, 20),
    st.integers(1, 20000),
    st.sampled_from(["uniform", "fps"]),
    st.tuples(st.integers(0, 9000), st.integers(1, 90000)) | st.none(),
)
def test_under_a_variable_rate_no_frame_is_taken_before_it_is_shown(gaps, most, stays, how, window):
    seconds = [0.0]
    for gap in gaps:
        seconds.append(seconds[-1] + gap / 1000)
    duration = seconds[-1] + stays / 1000
    start, end = (None, None) if window is None else (window[0] / 1000, (window[0] + window[1]) / 1000)
    if start is not None and start >= duration:
        return
    usable = frames_in_range(seconds, duration, start, end, "x.mp4")
    given_range = {"duration": duration, "start": start, "end": end, "usable": usable}
    frame_seconds = seconds[-1] / len(gaps)
    choice = sampling.choose_frames(seconds, frame_seconds, max_frames=most, sampling=how, fps=3.0, **given_range)
    steps = [b - a for a, b in zip(choice.times, choice.times[1:], strict=False)]
    assert 1 <= len(choice.indices) == len(choice.times) <= most and choice.spacing > 0
    assert list(choice.indices) == sorted(choice.indices)
    assert usable[0] <= choice.indices[0] and choice.indices[-1] <= usable[1]
    shown = [*seconds, duration]
    if sampling.is_steady(seconds[usable[0] : usable[1] + 1]) and list(choice.times) == [
        seconds[i] for i in choice.indices
    ]:
        return  # one rate: the nearest frames, which the test above is about
    for pick, time in zip(choice.indices, choice.times, strict=True):
        assert shown[pick] <= time + 1e-3
        assert time < shown[pick + 1] + 1e-3 or pick == len(seconds) - 1
    assert steps == pytest.approx([choice.spacing] * len(steps))


def test_a_frame_is_not_taken_before_it_is_shown():
    # A clock that ticks each second, then waits: at 6 s the picture of 4 s is on the screen, not that of 7 s.
    choice = sampling.choose_frames([0.0, 1.0, 2.0, 3.0, 4.0, 7.0, 12.0], 2.0, max_frames=3, duration=13.0)
    assert choice.indices == (0, 4, 6) and choice.times == (0.0, 6.0, 12.0) and choice.spacing == 6.0


def test_few_uneven_frames_are_repeated_to_equal_times():
    choice = sampling.choose_frames([0.0, 1.0, 2.0, 4.0], 4 / 3, max_frames=16, duration=5.0)
    assert choice.indices == (0, 1, 2, 2, 3) and choice.times == (0.0, 1.0, 2.0, 3.0, 4.0) and choice.spacing == 1.0


def test_small_differences_do_not_add_up_in_few_frames():
    seconds = [0.0]
    for i in range(10):
        seconds.append(seconds[-1] + (0.8 if i < 5 else 1.2))
    choice = sampling.choose_frames(seconds, 1.0, max_frames=16)
    assert len(choice.times) > 11
    for i, time in enumerate(choice.times):
        assert time == pytest.approx(i * choice.spacing)


def test_a_picture_that_stays_is_on_offer_as_long_as_it_stays():
    slides = {"seconds": [0.0, 5.0, 10.0], "frame_seconds": 5.0, "duration": 60.0}
    choice = sampling.choose_frames(**slides, max_frames=4)
    assert choice.indices == (0, 2, 2, 2) and choice.times == pytest.approx([0, 55 / 3, 110 / 3, 55])
    alone = sampling.choose_frames(**slides, max_frames=4, start=20.0, usable=(2, 2))
    assert alone.indices == (2,) and alone.times == (20.0,) and alone.spacing == 40.0


def test_a_range_holds_the_frames_on_its_edges_despite_milliseconds():
    # Matroska rounds 1/24 s to 42 ms.
    rounded = [round(i / 24, 3) for i in range(48)]
    assert frames_in_range(rounded, 2.0, 0.5, 1.0, "x.mkv") == (12, 24)
    assert frames_in_range(rounded, 2.0, 2 / 24, 99.0, "x.mkv") == (2, 47)  # at 0.083, asked from 0.08333
    assert frames_in_range(rounded, 2.0, None, 1 / 24, "x.mkv") == (0, 1)  # at 0.042, asked up to 0.04167


def test_a_range_begins_with_the_frame_on_the_screen():
    slides = ([0.0, 5.0, 10.0], 60.0)
    assert frames_in_range(*slides, 2.0, 4.0, "x.mp4") == (0, 0)
    assert frames_in_range(*slides, 6.0, 9.0, "x.mp4") == (1, 1)
    assert frames_in_range(*slides, 6.0, 10.0, "x.mp4") == (1, 2)
    assert frames_in_range(*slides, 20.0, None, "x.mp4") == (2, 2)
    assert frames_in_range(*slides, 20.0, 99.0, "x.mp4") == (2, 2)
    with pytest.raises(MediaError, match=r"start=3 s .*x\.mp4 \(3\.00 s\)"):
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
