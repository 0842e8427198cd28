"""What a Qwen3-VL is shown of real files is what its stock processor makes of them: pixels, grids and ids."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prunevid_qwen import PruneVidConfig
from prunevid_qwen.adapters.releases import numbers_of
from prunevid_qwen.adapters.seams import transformers_release
from prunevid_qwen.errors import ConfigError, MediaError
from prunevid_qwen.inputs.qwen import qwen3
from prunevid_qwen.inputs.qwen.media import MediaReader, Medium
from prunevid_qwen.inputs.qwen.pixel_options import PixelOptions
from prunevid_qwen.inputs.qwen.pixels import fitted_pixels, image_pixels, video_pixels
from prunevid_qwen.inputs.qwen.qwen3 import Qwen3Preprocessor
from tests.media import encode
from tests.qwen3 import settings, tiny_tokenizer
from tests.stock import TORCHVISION_OPERATORS, checksum
from tests.stock_qwen3 import CASES, PROMPTS, PUBLISHED, TOKEN, Case, Prompt

GOLDEN = Path(__file__).parent / "data" / "stock_qwen3.npz"
CONFIG = PruneVidConfig()
RELEASES = ("older", "newer")  # than 5.10, by what they do with the brackets around a video


@cache
def golden() -> dict[str, Any]:
    return dict(np.load(GOLDEN))


def options(given: dict[str, Any], kind: str = "video") -> PixelOptions:
    return PixelOptions.from_folder_json(given, video=kind == "video", frontend="qwen3")


def ours(case: Case) -> tuple[torch.Tensor, torch.Tensor]:
    fit = options(case.settings(), case.kind)
    return image_pixels(case.pixels()[0], fit) if case.kind == "image" else video_pixels(case.pixels(), fit)


def frontend(prompt: Prompt) -> Qwen3Preprocessor:
    least, most = prompt.size
    video = settings("video", size={"shortest_edge": least, "longest_edge": most}, cap_pixels_per_frame=prompt.cap)
    reader = MediaReader(options(video), options(settings("image"), "image"))
    return Qwen3Preprocessor(tiny_tokenizer(), reader, "qwen3_vl")


def read(prompt: Prompt, own: Qwen3Preprocessor, sources: list[Any]) -> dict[str, torch.Tensor]:
    """What a prompt's messages become: through the frontend, from files on."""
    videos = iter(sources)
    [message] = prompt.messages()
    items = [dict(item) for item in message["content"]]
    for item in items:
        if item["type"] == "image":
            item["image"] = prompt.image()
        elif item["type"] == "video":
            item["video"] = next(videos)
    config = CONFIG.replace(max_frames=prompt.config["max_frames"])
    return own.batch(
        [own.sample([{"role": "user", "content": items}], config, lambda s, c, **_: read_one(prompt, own, s, c))]
    )


def read_one(prompt: Prompt, own: Qwen3Preprocessor, source: Any, config: PruneVidConfig) -> Medium:
    return source if isinstance(source, Medium) else own.media.read_video(source, config, **prompt.config)


def as_release(monkeypatch: pytest.MonkeyPatch, release: str) -> None:
    monkeypatch.setattr(qwen3, "_replaces_brackets", lambda: release == "older")


# ---- pixels


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_pixels_equal_what_the_stock_processor_gave(case: Case) -> None:
    values, grid = ours(case)
    assert grid.tolist() == golden()[f"{case.name}/grid"].tolist()
    assert values.shape == (int(grid.prod()), 3 * 2 * 16 * 16)
    np.testing.assert_array_equal(values[:: max(1, len(values) // 3)][:4].numpy(), golden()[f"{case.name}/rows"])
    assert checksum(values) == str(golden()[f"{case.name}/sha256"])


def files(prompt: Prompt, folder: Path) -> list[Path]:
    out = []
    for i, (suffix, _) in enumerate(prompt.files):
        out.append(folder / f"{prompt.name}{i}{suffix}")
        out[-1].write_bytes(golden()[f"{prompt.name}/file{i}"].tobytes())
    return out


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("prompt", PROMPTS, ids=lambda p: p.name)
def test_prompts_equal_those_of_the_stock_processor(
    prompt: Prompt, release: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_release(monkeypatch, release)
    own, sources = frontend(prompt), list[Any](files(prompt, tmp_path))
    if not prompt.exact:  # yuv to rgb rounds here and there, in each machine's way: what was decoded then is stored
        for i, source in enumerate(sources):
            stored, medium = golden()[f"{prompt.name}/frames{i}"], read_one(prompt, own, source, CONFIG)
            fit = own.media.video.for_video(len(stored), *stored.shape[1:3])
            pixels, grid = video_pixels(stored, fit)
            assert torch.equal(grid, medium.grid)
            assert float((pixels - medium.pixels).abs().max()) <= 4 / 127.5  # levels of 255
            sources[i] = Medium("video", pixels, grid, medium.seconds_per_grid, medium.facts)
    made = read(prompt, own, sources)
    assert made.pop("input_ids").tolist() == golden()[f"{prompt.name}/ids/{release}"].tolist()
    if release == "older":  # stored once: two brackets are all that differs
        del made["mm_token_type_ids"], made["attention_mask"]
    for name, value in made.items():
        stored = golden()[f"{prompt.name}/{name}"]
        if name.startswith("pixel"):
            assert checksum(value) == str(stored)
        else:
            assert value.tolist() == stored.tolist()
    assert ("pixel_values" in made) == (prompt.picture is not None)


def test_everything_equals_the_stock_processor_where_it_imports() -> None:
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed: pip install --no-deps torchvision==0.28.0 to run this proof")
    script = (
        TORCHVISION_OPERATORS
        + "import sys, tempfile\nfrom pathlib import Path\n"
        + "from transformers import Qwen3VLVideoProcessor as Stock\n"
        + "if not hasattr(Stock, 'cap_pixels_per_frame'):\n    print('older'); sys.exit()\n"
        + "from tests.stock_qwen3 import CASES, PROMPTS, stock_inputs, stock_pixels\n"
        + "from tests.test_qwen3_pixels import frontend, ours, read\n"
        + "same = [all(torch.equal(a, b) for a, b in zip(stock_pixels(c), ours(c))) for c in CASES]\n"
        + "for p in PROMPTS:\n    with tempfile.TemporaryDirectory() as folder:\n"
        + "        made = p.write(Path(folder))\n"
        + "        own, stock = read(p, frontend(p), made), stock_inputs(p, made)[0]\n"
        + "        alike = (torch.equal(own[n], stock[n].to(own[n].dtype)) for n in own)\n"
        + "        same.append(own.keys() == stock.keys() and all(alike))\n"
        + "print('equal', sum(same), 'of', len(same))\n"
    )
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stderr[-3000:]
    said = done.stdout.strip().splitlines()[-1]
    if said == "older":
        pytest.skip("this release has no cap on frames, refuses narrow ones, and counts odd numbers otherwise")
    count = len(CASES) + len(PROMPTS)
    assert said == f"equal {count} of {count}"


# ---- reading


def reader(least: int, most: int, cap: bool | None = None, **more: Any) -> MediaReader:
    video = settings("video", size={"shortest_edge": least, "longest_edge": most}, cap_pixels_per_frame=cap, **more)
    return MediaReader(options(video), options(settings("image"), "image"))


@pytest.mark.parametrize("cap", [True, False])
@pytest.mark.parametrize("frames", [1, 2, 5, 7, 8])
def test_every_way_of_reading_gives_one_size(frames: int, cap: bool) -> None:
    # five frames count as four, and seven as eight, so that a padded count would give others
    source = np.random.default_rng(0).integers(0, 256, (frames, 61, 100, 3), np.uint8)
    own = reader(TOKEN, 6 * TOKEN * frames, cap)
    whole = own.read_video(source, CONFIG)
    fitted, _, facts = own.read_fitted(source, CONFIG)
    assert facts == whole.facts and whole.facts["frames"] == frames
    assert torch.equal(fitted_pixels(fitted, own.video)[0], whole.pixels)
    for tokens in (6, None):
        feed = own.open_video(source, CONFIG.replace(vision_chunk_tokens=tokens), dtype=torch.float32)
        assert torch.equal(torch.cat([chunk.pixels for chunk in feed if chunk is not None]), whole.pixels)
    stock = video_pixels(source, own.video)  # the frames as they came, without padding
    assert torch.equal(stock[1], whole.grid)


def test_a_single_picture_counts_as_the_pair_that_it_becomes() -> None:
    medium = reader(*PUBLISHED, False).read_video(np.zeros((1, 320, 640, 3), np.uint8), CONFIG)
    assert medium.grid.tolist() == [[1, 20, 40]]


def test_brackets_are_those_of_the_installed_release() -> None:
    release = numbers_of(transformers_release())
    if (5, 7) <= release < (5, 10):
        pytest.skip("no release between 5.6 and 5.10 was looked at")
    assert qwen3._replaces_brackets() == (release < (5, 7))


def test_a_cap_is_the_default_and_counts_tokens_of_a_frame() -> None:
    frames = np.zeros((4, 320, 640, 3), np.uint8)  # 200 tokens

    def tokens(cap: bool | None, most: int = 24576, **given: Any) -> int:
        own = reader(4096, most * TOKEN, cap, max_video_tokens=given.pop("max_video_tokens", 50))
        return int(own.read_video(frames, CONFIG, **given).grid[0, 1:].prod()) // 4

    assert (tokens(None), tokens(True), tokens(False)) == (50, 50, 200)
    # what is asked for goes before the cap, and holds without one
    assert (tokens(None, max_pixels=98 * TOKEN), tokens(False, max_pixels=98 * TOKEN)) == (98, 98)
    assert (tokens(None, total_pixels=2 * 32 * TOKEN), tokens(False, total_pixels=2 * 32 * TOKEN)) == (32, 32)
    assert tokens(True, most=4 * 18, max_pixels=98 * TOKEN) == 18  # the model's own budget of four frames holds too
    assert tokens(None, max_video_tokens=None) == 200
    assert tokens(False, min_pixels=450 * TOKEN, max_pixels=512 * TOKEN) == 512 - 62


@pytest.mark.parametrize(
    "given",
    [
        {"size": {"shortest_edge": 4096, "longest_edge": 1024}}, {"size": {"shortest_edge": "4096"}},
        {"size": {"longest_edge": 0}}, {"do_rescale": False}, {"patch_size": 0},
    ],
)  # fmt: skip
def test_settings_that_cannot_be_served_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        options(settings("video", **given))


def test_a_ribbon_is_refused() -> None:
    with pytest.raises(MediaError, match="200"):
        reader(*PUBLISHED).read_video(np.zeros((2, 10, 3000, 3), np.uint8), CONFIG)


def test_times_are_those_of_the_file_and_not_of_a_rate(tmp_path: Path) -> None:
    """A variable frame rate: what is on the screen at equally spaced times, and these times."""
    path = encode(tmp_path / "a.mkv", frames=6, milliseconds=[0, 1000, 1100, 1200, 5000, 8000])
    own = Qwen3Preprocessor(tiny_tokenizer(), reader(*PUBLISHED), "qwen3_vl")
    medium = own.media.read_video(path, CONFIG.replace(max_frames=4))
    content = [{"type": "video", "video": medium}, {"type": "text", "text": "now"}]
    ids = own.batch([own.sample([{"role": "user", "content": content}], CONFIG)])["input_ids"][0]
    times = medium.facts["timestamps"]
    said = own.tokenizer.decode(ids)
    assert times[0] == 0.0 and times[-1] == pytest.approx(8.0, abs=0.2)
    for first, last in ((0, 1), (2, 3)):
        assert f"<{(times[first] + times[last]) / 2:.1f} seconds><|vision_start|>" in said
    late = own.media.read_video(path, CONFIG, start=5.0)
    assert late.facts["timestamps"][0] == 5.0  # of the video, not of the part of it
