"""Our pixels are those of the stock processors, bit for bit; limits and errors."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from prunevid_qwen.errors import ConfigError, MediaError
from prunevid_qwen.inputs.qwen.pixels import PixelOptions, image_pixels, smart_resize, video_pixels
from tests.stock import CASES, TORCHVISION_OPERATORS, Case, checksum

GOLDEN = Path(__file__).parent / "data" / "stock_pixels.npz"
IMAGE = PixelOptions()


def ours(case: Case) -> tuple[torch.Tensor, torch.Tensor]:
    options = PixelOptions(min_pixels=case.min_pixels, max_pixels=case.max_pixels)
    if case.kind == "image":
        return image_pixels(case.pixels()[0], options)
    return video_pixels(case.pixels(), options)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_pixels_equal_what_the_stock_processor_gave(case):
    golden = np.load(GOLDEN)
    values, grid = ours(case)
    assert grid.dtype == torch.int64 and grid.tolist() == golden[f"{case.name}/grid"].tolist()
    assert values.dtype == torch.float32 and values.shape == (int(grid.prod()), 1176)
    rows = golden[f"{case.name}/rows"]
    np.testing.assert_array_equal(values[:: max(1, len(values) // 3)][:4].numpy(), rows)
    assert checksum(values) == str(golden[f"{case.name}/sha256"])


def test_pixels_equal_the_stock_processor_where_it_imports():
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed: pip install --no-deps torchvision==0.28.0 to run this proof")
    script = (
        TORCHVISION_OPERATORS
        + "from tests.stock import CASES, stock_pixels\nfrom tests.test_pixels import ours\n"
        + "same = [all(torch.equal(a, b) for a, b in zip(stock_pixels(c), ours(c))) for c in CASES]\n"
        + "print('equal', sum(same), 'of', len(same))\n"
    )
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stderr[-3000:]
    said = done.stdout.strip().splitlines()[-1]
    assert said == f"equal {len(CASES)} of {len(CASES)}"


def test_layouts_and_types_of_frames_are_the_same_pixels():
    frames = CASES[0].pixels()
    options = PixelOptions(max_pixels=64 * 784)
    expected, _ = video_pixels(frames, options)
    first = frames.transpose(0, 3, 1, 2)
    frozen = frames.copy()
    frozen.setflags(write=False)
    for given in (first, np.ascontiguousarray(first), torch.from_numpy(frames), torch.from_numpy(first.copy()), frozen):
        assert torch.equal(video_pixels(given, options)[0], expected)
    image, _ = image_pixels(frames[0], options)
    assert torch.equal(image_pixels(first[0], options)[0], image)
    # An image is a video of one frame shown twice.
    assert torch.equal(image, video_pixels(frames[:1], options)[0])


def test_patches_are_ordered_as_the_merger_wants_them():
    # 2 x 4 tokens of one frame pair: each token's red channel is its number, so rows come in fours of equal value.
    frame = np.zeros((56, 112, 3), np.uint8)
    for token in range(8):
        row, column = divmod(token, 4)
        frame[28 * row : 28 * row + 28, 28 * column : 28 * column + 28, 0] = token
    values, grid = video_pixels(np.stack([frame, frame]), PixelOptions(min_pixels=784))
    red = values[:, 0] * IMAGE.image_std[0] * 255 + IMAGE.image_mean[0] * 255
    assert grid.tolist() == [[1, 4, 8]]
    assert red.round().int().tolist() == [t for t in range(8) for _ in range(4)]


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(480, 640, (476, 644)), (1080, 1920, (728, 1316)), (20, 20, (56, 56)), (10, 300, (28, 308)), (42, 70, (56, 56))],
)
def test_smart_resize(height, width, expected):
    # 42 / 28 = 1.5 and 70 / 28 = 2.5 are both rounded to even.
    assert smart_resize(height, width) == expected


def test_smart_resize_equals_the_stock_one():
    try:
        from transformers.models.qwen2_vl import image_processing_pil_qwen2_vl as stock
    except (ImportError, RuntimeError) as error:  # an older layout; or a torchvision that does not fit torch
        pytest.skip(f"the stock smart_resize cannot be imported here: {error}")
    rng = np.random.default_rng(0)
    for _ in range(3000):
        height, width = (int(v) for v in np.exp(rng.uniform(0, 8, 2)))
        least = int(rng.integers(784, 10**6))
        limits = {"min_pixels": least, "max_pixels": least + int(rng.integers(0, 10**7))}
        if max(height, width) <= 200 * min(height, width):
            assert smart_resize(height, width, **limits) == stock.smart_resize(height, width, **limits)


def test_smart_resize_refuses_a_ribbon():
    assert smart_resize(10, 2000) == (28, 812)
    with pytest.raises(MediaError, match=r"2010x10 \(width x height\).* 200"):
        smart_resize(10, 2010)
    with pytest.raises(MediaError, match="crop it"):
        image_pixels(np.zeros((2010, 10, 3), np.uint8), IMAGE)


def test_max_pixels_replaces_the_limit_of_the_model():
    frames = np.zeros((4, 280, 280, 3), np.uint8)
    assert video_pixels(frames, IMAGE)[1].tolist() == [[2, 20, 20]]
    assert video_pixels(frames, IMAGE, max_pixels=25 * 784)[1].tolist() == [[2, 10, 10]]
    small = PixelOptions(max_pixels=25 * 784)
    assert video_pixels(frames, small, max_pixels=100 * 784)[1].tolist() == [[2, 20, 20]]
    assert image_pixels(frames[0], IMAGE, max_pixels=25 * 784)[1].tolist() == [[1, 10, 10]]


def test_total_pixels_over_784_are_the_tokens_of_the_whole_video():
    frames = np.zeros((8, 280, 280, 3), np.uint8)
    grid = video_pixels(frames, IMAGE, total_pixels=100 * 784)[1]
    assert grid.tolist() == [[4, 10, 10]] and int(grid.prod()) // 4 == 100
    # Both limits hold; 7 frames are 4 pairs too.
    assert video_pixels(frames, IMAGE, max_pixels=16 * 784, total_pixels=100 * 784)[1].tolist() == [[4, 8, 8]]
    assert video_pixels(frames[:7], IMAGE, total_pixels=100 * 784)[1].tolist() == [[4, 10, 10]]


def test_a_budget_too_small_names_the_smallest_that_works():
    frames = np.zeros((8, 280, 280, 3), np.uint8)
    with pytest.raises(ConfigError, match=r"max_pixels=1000 .*max_pixels=3136"):
        video_pixels(frames, IMAGE, max_pixels=1000)
    with pytest.raises(
        ConfigError,
        match=r"total_pixels=10000 .*2500.* 4 pairs.*3136.*total_pixels=12544",
    ):
        video_pixels(frames, IMAGE, total_pixels=10000)
    assert video_pixels(frames, IMAGE, max_pixels=3136, total_pixels=12544)[1].tolist() == [[4, 4, 4]]
    with pytest.raises(ConfigError, match=r"max_pixels is a whole number .* or None; got 1\.5"):
        video_pixels(frames, IMAGE, max_pixels=1.5)


def test_options_from_both_spellings_of_the_folder_json():
    old = PixelOptions.from_folder_json({"min_pixels": 3136, "max_pixels": 12845056, "patch_size": 14, "merge_size": 2})
    assert (old.min_pixels, old.max_pixels, old.factor) == (3136, 12845056, 28)
    new = PixelOptions.from_folder_json(
        {"size": {"shortest_edge": 784, "longest_edge": 50176}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    )
    assert (new.min_pixels, new.max_pixels, new.image_mean, new.image_std) == (784, 50176, (0.5,) * 3, (0.5,) * 3)
    assert PixelOptions.from_folder_json({}) == PixelOptions()
    video = PixelOptions.from_folder_json({"processor_class": "Qwen2_5_VLProcessor", "size": None}, video=True)
    assert (video.min_pixels, video.max_pixels) == (128 * 784, 768 * 784)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"do_resize": False}, "do_resize=false"),
        ({"rescale_factor": 1.0}, "rescale_factor=1.0"),
        ({"resample": 2}, "resample=2"),
        ({"min_pixels": 5000, "max_pixels": 4000}, "min_pixels=5000 is above max_pixels=4000"),
        ({"image_std": [0.5, 0.5]}, "image_std of the preprocessor is three numbers"),
        ({"image_std": [0.5, 0.0, 0.5]}, "image_std of the preprocessor is three numbers"),
        ({"patch_size": 0}, "patch_size of the preprocessor is a whole number of at least 1"),
    ],
)
def test_options_that_this_path_cannot_serve_are_refused(settings, said):
    with pytest.raises(ConfigError, match=said):
        PixelOptions.from_folder_json(settings)


@pytest.mark.parametrize(
    ("frames", "said"),
    [
        (np.zeros((2, 28, 28, 3), np.float32), "got torch.float32: scale floats by 255"),
        (np.zeros((28, 28, 3), np.uint8), r"got \[28, 28, 3\]"),
        (np.zeros((2, 28, 28, 4), np.uint8), r"got \[2, 28, 28, 4\]"),
        (np.zeros((0, 28, 28, 3), np.uint8), r"with T at least 1, got \[0, 28, 28, 3\]"),
    ],
)
def test_frames_of_another_shape_or_type_are_refused(frames, said):
    with pytest.raises(MediaError, match=said):
        video_pixels(frames, IMAGE)


def test_the_memory_is_that_of_the_result_and_one_pair(monkeypatch):
    import prunevid_qwen.inputs.qwen.pixels as pixels

    seen: list[int] = []
    plain = pixels._resized
    monkeypatch.setattr(pixels, "_resized", lambda f, h, w: seen.append(len(f)) or plain(f, h, w))
    video_pixels(np.zeros((9, 56, 84, 3), np.uint8), IMAGE)
    assert seen == [2, 2, 2, 2, 1]
