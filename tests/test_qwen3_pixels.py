"""What a Qwen3-VL is shown of real files is what its stock processor makes of them: pixels, grids and ids."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prunevid_qwen import PruneVidConfig
from prunevid_qwen.inputs.qwen import qwen3
from prunevid_qwen.inputs.qwen.media import MediaReader, Medium
from prunevid_qwen.inputs.qwen.pixel_options import PixelOptions
from prunevid_qwen.inputs.qwen.pixels import image_pixels, video_pixels
from prunevid_qwen.inputs.qwen.qwen3 import Qwen3Preprocessor
from tests.qwen3 import settings, tiny_tokenizer
from tests.stock import TORCHVISION_OPERATORS, checksum
from tests.stock_qwen3 import CASES, PROMPTS, Case, Prompt

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
    script = (
        TORCHVISION_OPERATORS
        + "import sys, tempfile\nfrom pathlib import Path\n"
        + "try:\n    import torchvision\nexcept ImportError:\n    print('no torchvision'); sys.exit()\n"
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
    if said == "no torchvision":
        pytest.skip("torchvision is not installed: pip install --no-deps torchvision==0.28.0 to run this proof")
    if said == "older":
        pytest.skip(
            "this release has no cap on frames, refuses narrow ones, and counts odd numbers otherwise"
        )
    count = len(CASES) + len(PROMPTS)
    assert said == f"equal {count} of {count}"
