"""Frames against the formulas of the harnesses, written down again here; protocols and their identity."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prunevid_qwen.errors import ConfigError, MediaError
from prunevid_qwen.evaluation.datasets import names
from prunevid_qwen.evaluation.protocol.prompts import prompt_of
from prunevid_qwen.evaluation.protocol.protocol import TOKEN_PIXELS, EvalProtocol, presets, presets_for, protocol_named
from prunevid_qwen.evaluation.protocol.samplers import by_rate, linspace, mvbench_mid

COUNTS = st.integers(1, 3000)
RATES = st.sampled_from((3.0, 23.976, 24.0, 25.0, 29.97, 30.0, 100 / 21))


def mid_oracle(count: int, fps: float, frames: int, start: float, end: float, first_idx: int) -> list[int]:
    # specs, 1.2: video files first_idx=0, max_frame=len-1; frame folders first_idx=1, max_frame=number of files
    max_frame = count if first_idx else count - 1
    first = max(first_idx, round(start * fps))
    last = min(round(end * fps), max_frame)
    seg = float(last - first) / frames
    return [int(first + seg / 2 + np.round(seg * i)) for i in range(frames)]


@settings(max_examples=200, deadline=None)
@given(COUNTS, RATES, st.integers(1, 64), st.booleans())
def test_mvbench_takes_the_middles_of_equal_segments(count: int, fps: float, frames: int, folder: bool) -> None:
    want = mid_oracle(count, fps, frames, -1e5, 1e5, int(folder))
    got = mvbench_mid(count, fps, frames, first_number=int(folder))
    assert [index + folder for index in got.indices] == want
    assert min(got.indices) >= 0 and max(got.indices) < count and len(got.indices) == frames
    assert got.timestamps == tuple(index / fps for index in got.indices)


@settings(max_examples=200, deadline=None)
@given(st.integers(50, 3000), RATES, st.floats(0, 1), st.floats(0, 1), st.booleans())
def test_mvbench_bounds_are_rounded_to_frames(count: int, fps: float, one: float, two: float, folder: bool) -> None:
    start, end = sorted((one * (count - 1) / fps, two * (count - 1) / fps))
    if round(end * fps) < max(folder, round(start * fps)):
        return
    want = mid_oracle(count, fps, 16, start, end, int(folder))
    assert [index + folder for index in mvbench_mid(count, fps, 16, start, end, int(folder)).indices] == want


def test_mvbench_by_hand() -> None:
    assert mvbench_mid(160, 25.0, 16).indices[:4] == (4, 14, 24, 34)  # seg 159/16 = 9.94: 4.97, 14.97, 24.97, 34.97
    assert mvbench_mid(3, 3.0, 4).indices == (0, 0, 1, 2)  # a short clip repeats frames
    assert mvbench_mid(1, 3.0, 16).indices == (0,) * 16
    assert mvbench_mid(300, 30.0, 4, 2.0, 4.0).indices == (67, 82, 97, 112)  # 60..120: segments of 15
    assert mvbench_mid(300, 30.0, 4, 2.0, 2.0).indices == (60,) * 4  # start == end
    assert mvbench_mid(90, 3.0, 4, 2.0, 4.0, 1).indices == (5, 7, 8, 9)  # files 6..12 are indices 5..11


@settings(max_examples=200, deadline=None)
@given(COUNTS, RATES, st.sampled_from((2, 4, 16, 32, 768)))
def test_linspace_is_qwen_vl_utils(count: int, fps: float, frames: int) -> None:
    got = linspace(count, fps, frames).indices
    n = min(frames, count) // 2 * 2  # what lmms-eval passes as nframes
    if n < 2:
        assert got == (0, 0)  # qwen-vl-utils refuses: the only frame twice
    else:
        assert list(got) == torch.linspace(0, count - 1, n).round().long().tolist()
        assert got[0] == 0 and got[-1] == count - 1


@settings(max_examples=200, deadline=None)
@given(COUNTS, RATES, st.sampled_from((0.5, 1.0, 2.0, 60.0)), st.sampled_from((4, 8)), st.sampled_from((8, 64, 768)))
def test_fps_is_qwen_vl_utils(count: int, fps: float, wanted: float, low: int, high: int) -> None:
    got = by_rate(count, fps, wanted, low, high)
    frames = min(min(max(count / fps * wanted, low), high), count)  # smart_nframes
    n = int(frames // 2 * 2)
    if n < 2:
        assert got.indices == (0, 0)
    else:
        assert list(got.indices) == torch.linspace(0, count - 1, n).round().long().tolist()
        sample_fps = n / count * fps
        assert got.seconds_per_grid("range") == pytest.approx(2 / sample_fps)
    assert got.seconds_per_grid("one") == 1.0


def test_ranges_of_qwen_vl_utils() -> None:
    assert linspace(100, 10.0, 4, 2.05, 4.99).indices == (21, 30, 40, 49)  # ceil(20.5), floor(49.9)
    assert linspace(100, 10.0, 4, 9.5, 99.0).indices == (95, 96, 98, 99)  # an end beyond the video is its end
    assert linspace(100, 10.0, 4, 3.07, 3.07).indices == (30, 30)  # start == end: what is shown then
    assert linspace(3, 10.0, 32).indices == (0, 2)  # odd: an even number of frames, both ends
    assert linspace(6, 10.0, 4).indices == (0, 2, 3, 5)
    assert by_rate(300, 30.0, 2.0, 4, 768, 1.0, 5.0).indices[::7] == (30, 150)


@pytest.mark.parametrize("take", [mvbench_mid, linspace])
@pytest.mark.parametrize(("start", "end"), [(5.0, 2.0), (50.0, 60.0), (50.0, None), (4.0, 1.0)])
def test_no_frame_between(take, start: float, end: float | None) -> None:
    with pytest.raises(MediaError, match=r"no frame lies between start=.* of a video of 100 frames"):
        take(100, 10.0, 16, start, end)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: linspace(0, 25.0, 4),
        lambda: linspace(9, 0.0, 4),
        lambda: linspace(9, float("nan"), 4),
        lambda: mvbench_mid(0, 25.0, 4),
        lambda: by_rate(9, -1.0, 2.0, 4, 8),
        lambda: EvalProtocol("mvbench", "letter", frames=1),
        lambda: EvalProtocol("mvbench", "letter", sampler="fps", min_frames=3),
        lambda: EvalProtocol("mvbench", "letter", sampler="fps", frames=9),
    ],
)
def test_numbers_out_of_range_are_named(wrong) -> None:
    with pytest.raises(ConfigError, match=r"got|below"):
        wrong()


# ---- protocols


def test_every_preset_is_valid_where_it_says() -> None:
    for dataset in names():
        for name in presets_for(dataset):
            protocol = protocol_named(name, dataset)
            assert EvalProtocol.from_dict(json.loads(json.dumps(protocol.to_dict()))) == protocol
    assert set().union(*map(presets_for, names())) == set(presets())
    assert presets_for("mvbench") == ("mvbench_videochat2", "lmms", "letter")
    assert protocol_named("lmms", "longvideobench").max_new_tokens == 32
    assert (
        protocol_named("mvbench_videochat2", "mvbench").sample(160, 25.0).indices == mvbench_mid(160, 25.0, 16).indices
    )
    assert protocol_named("qwen", "videomme").sample(300, 30.0).indices == by_rate(300, 30.0, 2.0, 4, 512).indices


def test_wrong_choices_name_the_next_step() -> None:
    for wrong, said in (
        (lambda: protocol_named("lms", "mvbench"), "did you mean 'lmms'"),
        (lambda: protocol_named("qwen", "mvbench"), "pass mvbench_videochat2, lmms, letter"),
        (lambda: protocol_named("lmms", "mvbnch"), "did you mean 'mvbench'"),
        (lambda: EvalProtocol("mvbench", "qwen"), r"asked by prompt .*\('qwen' is known for videomme\)"),
        (lambda: EvalProtocol("mvbench", "letter", frames=5), "frames is even"),
        (lambda: EvalProtocol("mvbench", "letter", sampler="fps", frames=4, min_frames=8), "below min_frames"),
        (lambda: EvalProtocol("mvbench", "letter", max_pixels=1000), "below min_pixels"),
        (lambda: EvalProtocol("mvbench", "letter", seconds_per_grid="two"), "range, one"),
        (lambda: EvalProtocol("mvbench", "letter", subtitles="frames"), "shows no subtitles"),
        (lambda: EvalProtocol("videomme", "lmms_subtitles"), "subtitles='frames'"),
        (lambda: EvalProtocol.from_dict({"dataset": "mvbench", "prompt": "x", "frame": 8}), "did you mean 'frames'"),
        (lambda: EvalProtocol.from_dict({"dataset": "mvbench"}), "needs prompt"),
        (lambda: EvalProtocol("mvbench", "letter", fps=0), "above 0"),
    ):
        with pytest.raises(ConfigError, match=said):
            wrong()


def test_pixels_of_a_frame_are_those_of_qwen_vl_utils() -> None:
    low, high, total = 128 * TOKEN_PIXELS, 768 * TOKEN_PIXELS, 24576 * TOKEN_PIXELS
    protocol = EvalProtocol("mvbench", "letter", min_pixels=low, max_pixels=high, total_pixels=total)
    for frames in (2, 16, 64, 128, 384, 768):
        assert protocol.frame_pixels(frames) == max(min(high, int(total / frames * 2)), int(low * 1.05))
    assert protocol.frame_pixels(768) > total / 768 * 2  # the least a frame gets outweighs the video's limit
    assert protocol.replace(total_pixels=None).frame_pixels(768) == high


def test_the_identity_covers_every_choice_and_the_prompts_strings(monkeypatch: pytest.MonkeyPatch) -> None:
    base = EvalProtocol("videomme", "videomme_official")
    changed = [
        {"prompt": "letter"}, {"sampler": "fps"}, {"frames": 30}, {"min_frames": 6}, {"fps": 1.0},
        {"min_pixels": 100 * TOKEN_PIXELS}, {"max_pixels": 700 * TOKEN_PIXELS}, {"total_pixels": None},
        {"seconds_per_grid": "one"}, {"position_scheme": "hf"}, {"max_new_tokens": 17}, {"subtitles": "frames"},
    ]  # fmt: skip
    assert {name for change in changed for name in change} | {"dataset"} == set(base.to_dict())
    found = [json.dumps(each.identity()) for each in (base, *(base.replace(**change) for change in changed))]
    assert len(set(found)) == len(found)
    assert base.identity() == base.replace(fps=2).identity()
    replaced = dataclasses.replace(prompt_of("videomme_official", "videomme"), tail="?")
    monkeypatch.setattr(EvalProtocol, "text", property(lambda self: replaced))
    assert json.dumps(base.identity()) != found[0]
