"""Videos without torchvision: our pixels are those of the library's video processors, bit for bit; what is refused."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from prunevid_qwen.errors import SetupError
from prunevid_qwen.inputs.frontends.plain_videos import VIDEO_DEFAULTS, PlainVideoProcessor
from tests.stock import TORCHVISION_OPERATORS, checksum
from tests.stock_videos import CLASSES, CLIPS, SETTINGS, Clip

GOLDEN = Path(__file__).parent / "data" / "stock_videos.npz"


def ours(family: str, clip: Clip) -> torch.Tensor:
    made = PlainVideoProcessor(SETTINGS[family], family.split()[0])(videos=[clip.pixels()], return_tensors="pt")
    return made["pixel_values_videos"][0]


@pytest.mark.parametrize("clip", CLIPS, ids=lambda clip: clip.name)
@pytest.mark.parametrize("family", SETTINGS)
def test_pixels_equal_what_the_stock_processor_gave(family: str, clip: Clip) -> None:
    golden = np.load(GOLDEN)
    values = ours(family, clip)
    assert values.dtype == torch.float32 and len(values) == clip.frames
    np.testing.assert_array_equal(values[-1, :, ::97, ::7].numpy(), golden[f"{family}/{clip.name}/rows"])
    assert checksum(values) == str(golden[f"{family}/{clip.name}/sha256"])


def test_pixels_equal_the_stock_processor_where_it_imports() -> None:
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed: pip install --no-deps torchvision==0.28.0 to run this proof")
    script = (
        TORCHVISION_OPERATORS
        + "from tests.stock_videos import CLIPS, SETTINGS, stock_pixels\nfrom tests.test_plain_videos import ours\n"
        + "same = [torch.equal(stock_pixels(f, c), ours(f, c)) for f in SETTINGS for c in CLIPS]\n"
        + "print('equal', sum(same), 'of', len(same))\n"
    )
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stderr[-3000:]
    said = done.stdout.strip().splitlines()[-1]
    count = len(CLIPS) * len(SETTINGS)
    assert said == f"equal {count} of {count}"


def test_every_family_is_proven() -> None:
    assert set(VIDEO_DEFAULTS) == {each.split()[0] for each in SETTINGS} == set(CLASSES)


@pytest.mark.parametrize("family", CLASSES)
def test_what_a_file_leaves_out_is_as_the_librarys_class_has_it(family: str) -> None:
    stock = json.loads(str(np.load(GOLDEN)[f"{family}/defaults"]))
    for name, value in VIDEO_DEFAULTS[family].items():
        assert (list(value) if name.startswith("image_") else value or None) == (stock[name] or None), name


@pytest.mark.parametrize(
    "settings",
    [
        {"resample": 0}, {"do_rescale": False}, {"do_resize": False}, {"do_normalize": False},
        {"size": {"longest_edge": 300}}, {"size": {"shortest_edge": 300, "longest_edge": 900}},
        {"do_center_crop": True, "crop_size": {"height": 3}},
    ],
)  # fmt: skip
def test_settings_of_other_steps_are_refused_with_what_to_install(settings: dict[str, object]) -> None:
    with pytest.raises(SetupError, match="torchvision"):
        PlainVideoProcessor(settings, "llava_onevision")


def test_padding_of_tiles_is_no_padding_of_videos() -> None:
    """Downloads with one file of settings have the image processor's; no video processor of these families reads it."""
    tiles = PlainVideoProcessor({"do_pad": True}, "llava_onevision").pixels(CLIPS[0].pixels())
    assert torch.equal(tiles, PlainVideoProcessor({}, "llava_onevision").pixels(CLIPS[0].pixels()))


def test_a_plain_number_is_the_shortest_edge_and_a_square_crop() -> None:
    one = PlainVideoProcessor({"size": 30, "crop_size": 28}, "video_llava")
    other = PlainVideoProcessor(
        {"size": {"shortest_edge": 30}, "crop_size": {"height": 28, "width": 28}}, "video_llava"
    )
    frames = CLIPS[0].pixels()
    assert one.pixels(frames).shape == (3, 3, 28, 28)
    assert torch.equal(one.pixels(frames), other.pixels(frames))
