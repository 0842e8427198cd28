"""Folders of frames, lists, arrays and single images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, features

from prunevid_qwen import MediaError, PruneVidConfig
from prunevid_qwen.inputs.qwen.media import MediaReader
from prunevid_qwen.video import open_video, read_image, read_video
from prunevid_qwen.video.frames import read_picture
from prunevid_qwen.video.indexed import read_frames
from tests.media import folder, frame, number_of, numbers_of


def test_a_folder_is_read_in_natural_order_at_two_frames_a_second(tmp_path):
    path = folder(tmp_path / "кадры", frames=12)
    (path / "notes.txt").write_text("not a frame")
    (path / ".hidden.png").write_bytes(b"")
    video = read_video(path, max_frames=16)
    assert numbers_of(video.frames) == list(range(12)) == list(video.indices)
    assert video.timestamps == pytest.approx([i / 2 for i in range(12)])
    assert video.duration == 6.0 and video.seconds_per_grid == 1.0 and video.backend == "frames"
    assert read_video(path, max_frames=4, fps=4.0).indices == (0, 4, 7, 11)
    assert read_video(path, max_frames=4, fps=4.0).seconds_per_grid == pytest.approx(2 * 3.0 / 4)
    assert read_video(path, start=1.0, end=2.0).indices == (2, 3, 4)


def test_lists_of_paths_pictures_and_arrays_are_the_same_frames(tmp_path):
    folder(tmp_path / "f", frames=3)
    paths = [tmp_path / "f" / f"frame{i}.png" for i in range(3)]
    arrays = [frame(i) for i in range(3)]
    expected = np.stack([*arrays, arrays[-1]])
    for items in (paths, [str(p) for p in paths], arrays, [Image.fromarray(a) for a in arrays], tuple(arrays)):
        assert np.array_equal(read_video(items).frames, expected)


def test_arrays_and_tensors_in_both_layouts():
    array = np.stack([frame(i) for i in range(6)])
    for given in (
        array,
        array.transpose(0, 3, 1, 2),
        torch.from_numpy(array),
        torch.from_numpy(array).permute(0, 3, 1, 2),
    ):
        video = read_video(given, max_frames=4)
        assert numbers_of(video.frames) == list(video.indices) == [0, 2, 3, 5]
    assert read_video(array[:3]).padded == 1


def test_one_picture_is_a_video_of_two_equal_frames(tmp_path):
    Image.fromarray(frame(5)).save(tmp_path / "still.png")
    assert numbers_of(read_video(tmp_path / "still.png").frames) == [5, 5]


def test_frames_of_unequal_size_name_the_first_that_differs(tmp_path):
    path = folder(tmp_path / "f", frames=4)
    Image.fromarray(frame(2, 32, 64)).save(path / "frame2.png")
    with pytest.raises(MediaError, match=r"frame2\.png \(number 2\) is 64x32, the first is 128x64 .*resize them"):
        read_video(path)
    with pytest.raises(MediaError, match=r"frame 1 \(number 1\) is 64x32"):
        read_video([frame(0), frame(1, 32, 64)])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "an empty list of frames"),
        (np.zeros((0, 8, 8, 3), np.uint8), "holds no pixel"),
        (np.zeros((2, 8, 8, 3), np.float32), r"is float32, pixels are uint8 from 0 to 255: pass \(x \* 255\)"),
        (np.zeros((8, 8, 3), np.uint8), r"\[T, H, W, 3\] or \[T, 3, H, W\], got an array of shape \[8, 8, 3\]"),
        (np.zeros((2, 8, 8, 4), np.uint8), r"got an array of shape \[2, 8, 8, 4\]"),
        ([3], "an image is a path, a PIL image or a uint8 array .*; got int"),
    ],
)
def test_what_is_no_frame_is_refused(given, said):
    with pytest.raises(MediaError, match=said):
        read_video(given)


def test_an_image_is_turned_as_its_exif_says(tmp_path):
    picture = Image.fromarray(frame(3))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown a quarter turn to the right
    picture.save(tmp_path / "phone.jpg", exif=exif, quality=95)
    seen = read_image(tmp_path / "phone.jpg")
    assert seen.shape == (128, 64, 3) and seen.dtype == np.uint8
    assert np.abs(seen.astype(int) - np.rot90(frame(3), -1)).mean() < 6
    # Its size is known from the header before it is decoded.
    assert read_video([tmp_path / "phone.jpg", np.ascontiguousarray(np.rot90(frame(3), -1))]).size == (128, 64)


def test_images_become_rgb_as_the_stock_processor_makes_them(tmp_path):
    rng = np.random.default_rng(0)
    for mode, channels in (("RGBA", 4), ("L", 1), ("CMYK", 4), ("P", 1)):
        pixels = rng.integers(0, 256, (8, 9, channels), np.uint8)
        if mode == "RGBA":
            pixels[..., 3] = 255
        picture = Image.fromarray(pixels.squeeze())
        picture = picture if mode == "RGBA" else picture.convert(mode)
        seen, note = read_picture(picture)
        assert np.array_equal(seen, np.array(picture.convert("RGB"))) and note is None
    grey = rng.integers(0, 256, (8, 9), np.uint8)
    assert np.array_equal(read_image(grey), np.stack([grey] * 3, axis=2))
    assert read_image(np.zeros((3, 8, 9), np.uint8)).shape == (8, 9, 3)


def test_white_is_put_below_transparent_parts(tmp_path):
    """Black letters on a ground of nothing: 0 black, 255 white; half of black over white is grey."""
    clear = np.zeros((8, 9, 4), np.uint8)
    clear[2:4, 2:4, 3], clear[5, 5, 3] = 255, 128
    expected = np.full((8, 9, 3), 255, np.uint8)
    expected[2:4, 2:4], expected[5, 5] = 0, 127
    whole = Image.fromarray(clear)
    palette = Image.fromarray(np.where(clear[..., 3] == 255, 1, 0).astype(np.uint8), mode="P")
    palette.putpalette([9, 9, 9, 0, 0, 0])
    keyed = Image.fromarray(np.where(clear[..., 3:] == 255, 0, 7).astype(np.uint8).repeat(3, axis=2))
    letters = expected.copy()
    letters[5, 5] = 255
    for name, picture, options, wanted in (
        ("rgba.png", whole, {}, expected),
        ("rgba.webp", whole, {"lossless": True}, expected),
        ("la.png", whole.convert("LA"), {}, expected),
        ("palette.png", palette, {"transparency": 0}, letters),
        ("keyed.png", keyed, {"transparency": (7, 7, 7)}, letters),
    ):
        picture.save(tmp_path / name, **options)
        seen, note = read_picture(tmp_path / name)
        assert np.abs(seen.astype(int) - wanted).max() <= 1, name
        assert note is not None and "white" in note
        video = read_video([tmp_path / name] * 3)
        assert np.array_equal(video.frames[0], seen) and len(video.warnings) == 1
        stream = open_video([tmp_path / name] * 3)
        assert len(list(stream.chunks(2))) == 2 and stream.video().warnings == video.warnings
        assert read_frames([tmp_path / name] * 3, lambda count, rate: [1]).warnings == video.warnings


def test_levels_of_other_ranges_are_scaled_and_said(tmp_path):
    ramp = np.linspace(0, 1, 64).reshape(8, 8)
    wanted = np.stack([np.round(ramp * 255)] * 3, axis=2)
    deep = Image.fromarray(np.round(ramp * 65535).astype(np.uint16))
    for name in ("deep.png", "deep.tif"):
        deep.save(tmp_path / name)
    Image.fromarray(ramp.astype(np.float32)).save(tmp_path / "float.tif")
    for source, said in (
        (tmp_path / "deep.png", "65535"),
        (tmp_path / "deep.tif", "65535"),
        (tmp_path / "float.tif", "0 to 1 "),
        (deep, "65535"),
        (Image.fromarray(np.round(ramp * 65535).astype(np.int32)), "65535"),
        (Image.fromarray(np.round(ramp * (2**31 - 1)).astype(np.int32)), "2147483647"),
        (Image.fromarray((ramp * 65535).astype(np.float32)), "65535"),
        (Image.fromarray((ramp * 255).astype(np.int32)), None),
        (Image.fromarray((ramp * 255).astype(np.float32)), None),
    ):
        seen, note = read_picture(source)
        assert np.abs(seen - wanted).max() <= 1
        assert note is None if said is None else said in str(note)
    for bad in (ramp - 0.5, ramp * 1e6, ramp * np.nan):
        with pytest.raises(MediaError, match="levels") as refused:
            read_image(Image.fromarray(bad.astype(np.float32)))
        assert refused.value.__cause__ is None  # the file is not damaged: nothing else failed


def test_what_was_done_to_a_picture_stands_in_its_facts(tmp_path):
    reader, config = MediaReader(), PruneVidConfig()
    path = tmp_path / "clear.png"
    Image.fromarray(np.zeros((56, 56, 4), np.uint8)).save(path)
    assert [str(path) in said for said in reader.read_image(path, config).facts["warnings"]] == [True]
    assert reader.read_image(frame(1), config).facts["warnings"] == []


@pytest.mark.parametrize("name", ["a.webp", "a.png", "a.apng", "a.avif"])
@pytest.mark.parametrize("lasting", [[100] * 6, [100, 100, 400, 100, 100, 200]])
def test_an_animated_picture_is_a_video(tmp_path, name, lasting):
    if name.endswith("avif") and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    pictures = [Image.fromarray(frame(i)) for i in range(6)]
    options = {"lossless": True} if name.endswith("webp") else {}
    kind = {"format": "PNG"} if name.endswith("png") else {}
    pictures[0].save(tmp_path / name, save_all=True, append_images=pictures[1:], duration=lasting, **kind, **options)
    begins = [sum(lasting[:i]) / 1000 for i in range(6)]
    for video in (read_video(tmp_path / name), read_video(tmp_path / name, start=0.05)):
        shown = [max(i for i in range(6) if begins[i] <= time + 1e-6) for time in video.timestamps]
        assert list(video.indices) == shown and set(shown) == set(range(6))
        assert numbers_of(video.frames[: len(shown)]) == shown
        assert video.duration == pytest.approx(sum(lasting) / 1000)
    assert numbers_of(read_frames(tmp_path / name, lambda count, rate: [count - 1, 0, 3]).frames) == [5, 0, 3]
    assert number_of(read_image(tmp_path / name)) == 0


def test_pages_of_a_tiff_are_frames_and_a_still_picture_is_one(tmp_path):
    pages = [Image.fromarray(frame(i)) for i in range(4)]
    pages[0].save(tmp_path / "pages.tiff", save_all=True, append_images=pages[1:])
    video = read_video(tmp_path / "pages.tiff", fps=4.0)
    assert numbers_of(video.frames) == [0, 1, 2, 3] and video.duration == 1.0
    pages[0].save(tmp_path / "mixed.tiff", save_all=True, append_images=[pages[1].resize((64, 32))])
    with pytest.raises(MediaError, match="number 1 is 64x32, the first is 128x64"):
        read_video(tmp_path / "mixed.tiff")
    pages[3].save(tmp_path / "phone.jpg", format="MPO", save_all=True, append_images=[pages[1]])  # with a preview
    for name in ("one.webp", "one.tiff", "phone.jpg"):
        if name != "phone.jpg":
            pages[3].save(tmp_path / name)
        assert read_video(tmp_path / name).indices == (0,)


def test_the_picture_that_stands_outside_an_animation_is_no_frame_of_it(tmp_path):
    pages = [Image.fromarray(frame(i)) for i in range(4)]
    pages[0].save(tmp_path / "a.png", save_all=True, append_images=pages[1:], default_image=True, duration=100)
    assert numbers_of(read_video(tmp_path / "a.png", max_frames=3).frames[:3]) == [1, 2, 3]


def test_of_an_animation_an_image_is_the_first_picture_and_that_is_said(tmp_path):
    for name in ("a.gif", "a.webp", "a.png", "a.tiff"):
        pages = [Image.fromarray(frame(i)) for i in range(3)]
        pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:])
        pixels, note = read_picture(tmp_path / name)
        assert number_of(pixels) == 0 and "3 pictures" in note
        pages[0].save(tmp_path / name)
        assert read_picture(tmp_path / name)[1] is None


def test_images_that_cannot_be_read(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(MediaError, match=r"text\.png is no image that Pillow can read"):
        read_image(tmp_path / "text.png")
    (tmp_path / "empty.png").touch()
    with pytest.raises(MediaError, match=r"empty\.png is empty"):
        read_image(tmp_path / "empty.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:4000])
    with pytest.raises(MediaError, match=r"cut\.png is damaged .*copy or download it again"):
        read_image(tmp_path / "cut.png")
    for video in (tmp_path / "cut.png", [tmp_path / "cut.png"] * 2):  # of which the size is read first, and EXIF
        with pytest.raises(MediaError, match=r"cut\.png is damaged"):
            read_video(video)
    with pytest.raises(MediaError, match=r"no image at .*; did you mean .*whole\.png\?"):
        read_image(tmp_path / "whoel.png")
    with pytest.raises(MediaError, match=r"is a folder, expected a file: pass the image itself"):
        read_image(tmp_path)
    with pytest.raises(MediaError, match=r"download it first"):
        read_image("https://example.org/a.png")
    with pytest.raises(MediaError, match=r"\[H, W, 3\], \[3, H, W\] or \[H, W\], got an array of shape \[5, 5, 4\]"):
        read_image(np.zeros((5, 5, 4), np.uint8))
