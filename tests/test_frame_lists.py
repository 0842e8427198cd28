"""Folders of frames, lists, arrays and single images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from prunevid_qwen.errors import MediaError
from prunevid_qwen.video import read_image, read_video
from tests.media import folder, frame, numbers_of


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
    for mode, channels in (("RGBA", 4), ("L", 1), ("LA", 2), ("CMYK", 4)):
        pixels = rng.integers(0, 256, (8, 9, channels), np.uint8)
        picture = (
            Image.fromarray(pixels.squeeze(), mode=None)
            if channels != 2
            else Image.merge("LA", [Image.fromarray(pixels[..., i]) for i in range(2)])
        )
        if mode == "CMYK":
            picture = picture.convert("CMYK")
        assert np.array_equal(read_image(picture), np.array(picture.convert("RGB")))
    grey = rng.integers(0, 256, (8, 9), np.uint8)
    assert np.array_equal(read_image(grey), np.stack([grey] * 3, axis=2))
    assert read_image(np.zeros((3, 8, 9), np.uint8)).shape == (8, 9, 3)


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
    with pytest.raises(MediaError, match=r"no image at .*; did you mean .*whole\.png\?"):
        read_image(tmp_path / "whoel.png")
    with pytest.raises(MediaError, match=r"is a folder, expected a file: pass the image itself"):
        read_image(tmp_path)
    with pytest.raises(MediaError, match=r"download it first"):
        read_image("https://example.org/a.png")
    with pytest.raises(MediaError, match=r"\[H, W, 3\], \[3, H, W\] or \[H, W\], got an array of shape \[5, 5, 4\]"):
        read_image(np.zeros((5, 5, 4), np.uint8))
