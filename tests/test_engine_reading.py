"""Media read for an engine: the frames that a protocol names, at the bits that the model's own reader makes."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from prunevid_qwen import ConfigError, MediaError, PruneVidConfig
from prunevid_qwen.evaluation.datasets.record import Media
from prunevid_qwen.evaluation.engine.task_media import ByConfig, ByProtocol, read_media
from prunevid_qwen.evaluation.protocol.protocol import EvalProtocol
from prunevid_qwen.inputs.qwen.media import MediaReader
from prunevid_qwen.inputs.qwen.pixels import PixelOptions, fitted_frame, fitted_pixels, image_pixels, video_pixels
from prunevid_qwen.moving_shapes import make_scene, render, write_frames
from prunevid_qwen.video import pyav as pyav_reader
from prunevid_qwen.video import read_video
from prunevid_qwen.video.indexed import read_frames
from tests.benchmark_folders import put_frames
from tests.media import FORMATS, Library, cut, encode, frame, losing, numbers_of

SMALL = PixelOptions(min_pixels=784, max_pixels=112 * 112)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    return Library(tmp_path_factory.mktemp("formats"))


def reading(**choices: object) -> ByProtocol:
    asked = {"min_pixels": 784, "max_pixels": 112 * 112, **choices}
    return ByProtocol(EvalProtocol("mvbench", "letter", **asked), SMALL, SMALL)  # type: ignore[arg-type]


# ---- frames by number


@pytest.mark.parametrize("name", FORMATS)
def test_the_frames_named_are_the_frames_read_whatever_the_format(library: Library, name: str) -> None:
    wanted = (3, 3, 9, 17)
    found = read_frames(library(name), lambda count, fps: wanted)
    shown = numbers_of(found.frames) if name != "loop.gif" else list(wanted)
    assert shown == list(wanted) == list(found.indices)
    assert found.count == FORMATS[name].get("frames", 48)
    assert found.fps == pytest.approx(10 if name == "loop.gif" else 24, rel=0.01)
    assert found.timestamps[-1] == pytest.approx(17 / found.fps, abs=2e-3) and found.size == (64, 128)


def test_frames_have_the_times_of_their_container_whatever_their_rate(tmp_path: Path) -> None:
    """Subtitles are those at these times."""
    path = encode(tmp_path / "v.mkv", frames=8, milliseconds=(0, 40, 80, 500, 520, 1500, 1600, 3000))
    found = read_frames(path, lambda count, fps: (1, 5, 7))
    assert found.timestamps == pytest.approx((0.04, 1.5, 3.0)) and numbers_of(found.frames) == [1, 5, 7]
    assert (found.count, found.fps) == (8, pytest.approx(7 / 3))


def test_folders_count_from_their_first_picture(tmp_path: Path) -> None:
    found = read_frames(str(put_frames(tmp_path / "f", count=12, first=1)), lambda count, fps: (0, count - 1), fps=3.0)
    assert (numbers_of(found.frames), found.fps, found.backend) == ([1, 12], pytest.approx(3.0), "frames")


@pytest.mark.parametrize("fetches", [False, True])
def test_what_a_seek_passes_over_is_looked_for_from_the_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fetches: bool
) -> None:
    path = encode(tmp_path / "v.mp4", options={"g": "12"})
    frames = pyav_reader.frames

    def passing(*given: object) -> object:
        return ((i, pixels) for i, pixels in frames(*given) if i != 30)  # type: ignore[arg-type]

    monkeypatch.setattr(pyav_reader, "frames", passing)
    monkeypatch.setattr(pyav_reader, "LOOKS_BACK", fetches)
    if fetches:
        assert numbers_of(read_frames(path, lambda *_: (2, 30, 31)).frames) == [2, 30, 31]
    else:
        with pytest.raises(MediaError, match=r"1 of the 3 frames asked for do not decode, the first is number 30"):
            read_frames(path, lambda *_: (2, 30, 31))


def test_a_damaged_video_is_refused_and_not_answered_with_other_frames(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    losing({16}, monkeypatch)
    assert numbers_of(read_frames(library("h264.mp4"), lambda *_: (2, 4)).frames) == [2, 4]
    with pytest.raises(MediaError, match="do not decode, the first is number 16"):
        read_frames(library("h264.mp4"), lambda *_: (2, 16))


def test_what_was_wrong_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, (frames, fetch) = encode(tmp_path / "v.mp4", options={"g": "12"}), (pyav_reader.frames, pyav_reader.fetch)

    def noting(*given: Any) -> Any:
        yield from ((i, pixels) for i, pixels in frames(*given) if i != 30)
        given[-1].append("first")

    monkeypatch.setattr(pyav_reader, "frames", noting)
    assert read_frames(path, lambda *_: (2,)).warnings == (f"{path}: first",)
    monkeypatch.setattr(pyav_reader, "fetch", lambda *given: (fetch(*given)[0], ["again"]))
    assert read_frames(path, lambda *_: (2, 30)).warnings == (f"{path}: again",)


def test_frames_of_two_sizes_are_refused(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = pyav_reader.frames
    monkeypatch.setattr(pyav_reader, "frames", lambda *given: ((i, p[: 64 - i]) for i, p in frames(*given)))
    with pytest.raises(MediaError, match=r"changes its size midway \(128x44, 128x62\)"):
        read_frames(library("h264.mp4"), lambda *_: (2, 20), fit=lambda image: image[:8])


def test_the_backend_and_the_time_limit_are_those_asked_for(library: Library, tmp_path: Path) -> None:
    folder, file = put_frames(tmp_path / "f", count=4, first=1), library("h264.mp4")
    for media in (Media("frames", str(folder), fps=3.0), Media("video", str(file))):
        with pytest.raises(MediaError, match="took more than 1e-09 s"):
            replace(reading(), time_limit=1e-9).read(media)
    with pytest.raises(ConfigError, match=r"video_backend is one of .*; got 'other'"):
        replace(reading(), backend="other").read(Media("video", str(file)))


def test_a_backend_that_chooses_by_itself_is_refused(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyav_reader, "CHOOSES_ITSELF", True, raising=False)
    with pytest.raises(ConfigError, match="pyav"):
        read_frames(library("h264.mp4"), lambda *_: (0,))


# ---- pixels


@pytest.mark.parametrize("size", [(48, 64), (240, 320), (112, 112), (63, 47)])
@pytest.mark.parametrize("limit", [3136, 50_000])
def test_frames_fitted_one_by_one_and_cut_have_the_bits_of_the_whole_video(size: tuple[int, int], limit: int) -> None:
    frames = np.stack([frame(number, *size) for number in range(5)])
    options = replace(SMALL, max_pixels=limit)
    fitted = np.stack([fitted_frame(each, options) for each in frames])
    for ours, stock in ((fitted_pixels(fitted, options), video_pixels(frames, options)),
                        (fitted_pixels(fitted[:1], options), image_pixels(frames[0], options))):  # fmt: skip
        assert torch.equal(ours[0], stock[0]) and torch.equal(ours[1], stock[1])


def test_fitted_frames_are_not_fitted_again() -> None:
    """A frame may end below the least area: seen a second time it would be enlarged."""
    options = PixelOptions(min_pixels=4 * 784, max_pixels=4 * 784)
    fitted = fitted_frame(frame(3, 64, 100), options)
    assert fitted.shape[0] * fitted.shape[1] < options.min_pixels
    assert fitted_pixels(fitted[None], options)[1].tolist() == [[1, fitted.shape[0] // 14, fitted.shape[1] // 14]]


# ---- by a protocol


def test_a_protocol_chooses_frames_and_time(library: Library) -> None:
    media = Media("video", str(library("h264.mp4")), start=0.5, end=1.5)
    found = reading(sampler="mvbench_mid", frames=4).read(media)
    # MVBench's notebook: 12 + 24/4/2 + round(6 i)
    assert numbers_of(found.frames) == [15, 21, 27, 33] == found.facts["indices"]
    assert found.seconds_per_grid == pytest.approx(2 * (25 / 24) / 4)
    assert reading(frames=4, seconds_per_grid="one").read(media).seconds_per_grid == 1.0
    assert numbers_of(reading(frames=4).read(media).frames) == [12, 20, 28, 36]
    assert found.facts["source_frames"] == 48 and found.facts["backend"] == "pyav"


def test_an_odd_number_of_frames_is_made_even_and_said(library: Library) -> None:
    found = reading(sampler="mvbench_mid", frames=3).read(Media("video", str(library("h264.mp4"))))
    assert found.facts["padded"] == 1 and len(found.frames) == 4 and len(found.timestamps) == 3
    assert np.array_equal(found.frames[3], found.frames[2])


def test_frame_folders_have_their_own_rate_and_first_number(tmp_path: Path) -> None:
    folder = put_frames(tmp_path / "f", count=12, first=1)
    media = Media("frames", str(folder), start=1.0, end=3.0, fps=3.0)
    found = reading(sampler="mvbench_mid", frames=2).read(media)
    # first 3, last 9, segment 3: pictures 4 and 7 by name
    assert numbers_of(found.frames) == [4, 7]


def test_the_pixels_of_a_frame_are_the_protocols(library: Library) -> None:
    media = Media("video", str(library("h264.mp4")))
    assert reading(frames=4).read(media).frames.shape[1:3] == (56, 140)  # 64 x 128 rounded to tokens, within its limit
    assert reading(frames=4, max_pixels=2 * 784).read(media).frames.shape[1:3] == (28, 56 - 28 + 28)[:2]
    large = reading(frames=4, min_pixels=40_000, max_pixels=80_000).read(media)
    assert large.frames.shape[1] * large.frames.shape[2] >= 40_000
    shared = reading(frames=8, total_pixels=8 * 784).read(media)
    assert shared.facts["frame_pixels"] == 2 * 784
    assert shared.frames.shape[1] * shared.frames.shape[2] <= 2 * 784


def test_images_have_their_own_limit_and_turn_upright(tmp_path: Path) -> None:
    from PIL import Image

    picture = Image.fromarray(frame(5, 64, 128))
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(tmp_path / "i.png", exif=exif)
    found = reading(max_pixels=8 * 784).read(Media("image", str(tmp_path / "i.png")))
    assert (found.kind, found.frames.shape) == ("image", (1, 112, 56, 3)) and found.facts["size"] == [128, 64]


# ---- as `prunevid ask` reads


@pytest.mark.parametrize("sampling", ["uniform", "fps"])
def test_bulk_reading_has_the_bits_of_ask(library: Library, sampling: str) -> None:
    config = PruneVidConfig(video_sampling=sampling, max_frames=7, fps=4.0, max_pixels=5 * 784)
    media = Media("video", str(library("vp9.webm")), start=0.25, end=1.5)
    found = ByConfig(config, SMALL, SMALL).read(media)
    stock = MediaReader(SMALL, SMALL).read_video(media.path, config, start=0.25, end=1.5)
    pixels, grid = fitted_pixels(found.frames, SMALL)
    assert torch.equal(pixels, stock.pixels) and torch.equal(grid, stock.grid)
    assert found.seconds_per_grid == stock.seconds_per_grid and found.facts == stock.facts


@pytest.mark.parametrize("lost", [16, 47], ids=["in the first pair", "after it"])
def test_bulk_reading_begins_again_where_frames_do_not_decode(
    library: Library, monkeypatch: pytest.MonkeyPatch, lost: int
) -> None:
    losing({lost, 47}, monkeypatch)
    config, path = PruneVidConfig(max_frames=4), library("vp9.webm")
    found = ByConfig(config, SMALL, SMALL).read(Media("video", str(path)))
    stock = MediaReader(SMALL, SMALL).read_video(str(path), config)
    assert torch.equal(fitted_pixels(found.frames, SMALL)[0], stock.pixels)
    assert not {lost, 47} & set(numbers_of(read_video(path, max_frames=4).frames))


def test_bulk_reading_of_a_folder_of_frames_has_its_rate(tmp_path: Path) -> None:
    media = Media("frames", str(put_frames(tmp_path / "f", count=4, first=1)), fps=4.0)
    found = ByConfig(PruneVidConfig(), SMALL, SMALL).read(media)
    assert found.timestamps == (0.0, 0.25, 0.5, 0.75) and found.seconds_per_grid == 0.5


def test_bulk_images_have_the_bits_of_ask(tmp_path: Path) -> None:
    path = write_frames(tmp_path / "f", render(make_scene(3), 2)) / "frame_0001.png"
    config = PruneVidConfig(max_pixels=4 * 784)
    found = ByConfig(config, SMALL, SMALL).read(Media("image", str(path)))
    stock = MediaReader(SMALL, SMALL).read_image(str(path), config)
    assert torch.equal(fitted_pixels(found.frames, SMALL)[0], stock.pixels)


def test_what_was_done_to_an_images_colours_stands_in_its_line(tmp_path: Path) -> None:
    for name, alpha in (("clear.png", 0), ("whole.png", 255)):
        Image.fromarray(np.full((56, 56, 4), (0, 0, 0, alpha), np.uint8)).save(tmp_path / name)
    for reader in (reading(), ByConfig(PruneVidConfig(), SMALL, SMALL)):
        clear, whole = (reader.read(Media("image", str(tmp_path / name))) for name in ("clear.png", "whole.png"))
        assert clear.frames.min() == 255 and len(clear.facts["warnings"]) == 1
        assert whole.frames.max() == 0 and "warnings" not in whole.facts


# ---- what goes wrong, and between processes


def test_one_bad_video_is_an_error_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").write_bytes(b"")
    for name, said in (("none.mp4", "none.mp4"), ("empty.mp4", "empty")):
        read = read_media(reading(), (Media("video", str(tmp_path / name)),))
        assert read.media == () and said in (read.error or "")


def test_memory_that_runs_out_is_an_error_of_that_video(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(np, "stack", lambda *_: (_ for _ in ()).throw(MemoryError))
    read = read_media(reading(), (Media("video", str(library("h264.mp4"))),))
    assert "not enough memory" in (read.error or "")


def test_a_programming_error_is_not_hidden(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EvalProtocol, "sample", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        read_media(reading(), (Media("video", str(library("h264.mp4"))),))


def test_what_is_read_travels_and_is_small(library: Library) -> None:
    read = read_media(reading(frames=4), (Media("video", str(library("h264.mp4"))),))
    sent = pickle.dumps(read)
    again = pickle.loads(sent)
    assert np.array_equal(again.media[0].frames, read.media[0].frames)
    pixels = fitted_pixels(read.media[0].frames, SMALL)[0]
    assert len(sent) < pixels.nbytes / 3


def test_a_cut_file_is_read_as_far_as_it_goes_and_says_so(library: Library, tmp_path: Path) -> None:
    path = cut(library("vp9.webm"), tmp_path / "cut.webm", 0.5)
    found = reading(frames=4).read(Media("video", str(path)))
    assert found.facts["source_frames"] < 48 and "promises" in found.facts["warnings"][0]
