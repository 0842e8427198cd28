"""The inputs of the proof that what Qwen3-VL is shown is what its stock processor makes of the same files."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests import stock
from tests.media import encode
from tests.qwen3 import TEMPLATE, settings, tiny_tokenizer

TOKEN = 32 * 32


@dataclass(frozen=True)
class Case(stock.Case):
    """Frames or an image made from its seed; limits are those of the whole video."""

    cap: bool | None = None  # of the stock processor's cap_pixels_per_frame

    @property
    def name(self) -> str:
        return f"{super().name}_{self.cap}"

    def settings(self) -> dict[str, Any]:
        size = {"shortest_edge": self.min_pixels, "longest_edge": self.max_pixels}
        capped = {} if self.kind == "image" else {"cap_pixels_per_frame": self.cap}
        return settings(self.kind, size=size, **capped)


PUBLISHED = (4096, 24576 * TOKEN)
CASES = (
    Case("video", 8, 96, 128, *PUBLISHED, 0, False),
    Case("video", 2, 720, 1280, *PUBLISHED, 1, True),  # of 880 tokens, 768 a frame
    Case("video", 2, 720, 1280, *PUBLISHED, 1, False),
    Case("video", 6, 360, 640, 4096, 6 * 60 * TOKEN, 2, False),  # its budget is shared
    Case("video", 6, 360, 640, 4096, 6 * 60 * TOKEN, 2, True),
    Case("video", 40, 64, 96, 40 * TOKEN, 40 * TOKEN, 3, True),  # a floor of 1.05 budgets: more than the budget
    Case("video", 5, 61, 77, 4096, 5 * 4 * TOKEN, 4, False),  # an odd count, counted as 4
    Case("video", 7, 61, 77, 4096, 7 * 4 * TOKEN, 5, True),  # counted as 8
    Case("video", 3, 61, 77, 4096, 3 * 6 * TOKEN + 1, 6, False),
    Case("video", 2, 90, 20, *PUBLISHED, 7, False),  # narrower than a token
    Case("video", 2, 40, 60, 2 * 20 * TOKEN, 2 * 40 * TOKEN, 8, False),  # up
    Case("image", 1, 90, 110, 65536, 4096 * 4096, 9),
    Case("image", 1, 480, 333, 65536, 100 * TOKEN, 10),
)


@dataclass(frozen=True)
class Prompt:
    """A conversation about one or two encoded files.

    Args:
        name: of the prompt, and of its files but for a number.
        files: suffix and options of `tests.media.encode` for each video.
        sampled: how the stock processor samples them.
        config: how `PruneVidConfig` says the same.
        size: the stock video processor's.
        exact: decoding them rounds nowhere, so that all is the same on every machine, from the file on.
        picture: height and width of an image that comes between the videos, or None.
    """

    name: str
    files: tuple[tuple[str, dict[str, Any]], ...]
    sampled: dict[str, Any]
    config: dict[str, Any]
    size: tuple[int, int] = PUBLISHED
    exact: bool = False
    picture: tuple[int, int] | None = None
    cap: bool = field(default=True, kw_only=True)

    def messages(self) -> list[dict[str, Any]]:
        content: list[dict[str, Any]] = [{"type": "video"} for _ in self.files]
        if self.picture:
            content.insert(1, {"type": "image"})
        return [{"role": "user", "content": [*content, {"type": "text", "text": "what color is the circle ?"}]}]

    def image(self) -> np.ndarray:
        assert self.picture is not None
        return np.random.default_rng(0).integers(0, 256, (*self.picture, 3)).astype(np.uint8)

    def write(self, folder: Path) -> list[Path]:
        return [encode(folder / f"{self.name}{i}{suffix}", **made) for i, (suffix, made) in enumerate(self.files)]


_FPS = {"sampling": "fps", "fps": 2.0, "min_frames": 4, "max_frames": 768}
_H265 = {"codec": "libx265", "options": {"x265-params": "log-level=none:pools=none:frame-threads=1"}}
_LOSSLESS = {"codec": "png", "pixel_format": "rgb24"}
PROMPTS = (
    Prompt("stock_sampling", ((".mp4", {"frames": 120}),), {}, _FPS),
    Prompt("uniform", ((".mp4", {"rate": 10, "frames": 100}),), {"num_frames": 8, "fps": None}, {"max_frames": 8}),
    Prompt("odd", ((".mp4", {"rate": 30, "frames": 90}),), {"num_frames": 7, "fps": None}, {"max_frames": 7}),
    Prompt("ntsc", ((".mp4", {"rate": Fraction(30000, 1001), "frames": 90, **_H265}),), {}, _FPS),
    Prompt(
        "small", ((".mp4", {"size": (180, 320), "frames": 61}),), {}, _FPS, (4096, 5 * 20 * TOKEN), cap=False,
    ),
    Prompt("lossless", ((".mov", {"rate": 12, "frames": 30, "size": (48, 80), **_LOSSLESS}),), {}, _FPS, exact=True),
    Prompt(
        "two_and_a_picture",
        ((".mov", {"rate": 5, "frames": 9, **_LOSSLESS}), (".mov", {"rate": 4, "frames": 24, **_LOSSLESS})),
        {}, _FPS, exact=True, picture=(50, 70),
    ),
)  # fmt: skip


def stock_processor(video: dict[str, Any], image: dict[str, Any]) -> Any:
    """The stock processor under these settings; its import must work."""
    from transformers import Qwen2VLImageProcessor, Qwen3VLProcessor, Qwen3VLVideoProcessor

    given = ({k: v for k, v in each.items() if not k.endswith("_type")} for each in (video, image))
    of_video, of_image = Qwen3VLVideoProcessor(**next(given)), Qwen2VLImageProcessor(**next(given))
    return Qwen3VLProcessor(of_image, tiny_tokenizer(), of_video, chat_template=TEMPLATE)


def stock_pixels(case: Case) -> tuple[torch.Tensor, torch.Tensor]:
    """What the stock processor makes of a case."""
    from transformers.video_utils import VideoMetadata

    own = case.settings()
    processor = stock_processor(own if case.kind == "video" else {}, own if case.kind == "image" else {})
    pixels = case.pixels()
    if case.kind == "image":
        out = processor.image_processor(images=[pixels[0]], return_tensors="pt")
        return out["pixel_values"], out["image_grid_thw"]
    about = VideoMetadata(total_num_frames=case.frames, fps=2.0, frames_indices=list(range(case.frames)))
    given = {"videos": [pixels], "video_metadata": [about], "do_sample_frames": False, "return_tensors": "pt"}
    out = processor.video_processor(**given)
    return out["pixel_values_videos"], out["video_grid_thw"]


def stock_inputs(prompt: Prompt, files: list[Path]) -> tuple[dict[str, torch.Tensor], list[np.ndarray]]:
    """What the stock processor makes of a prompt, file by file and from decoding on, and the frames that it took."""
    from transformers.video_utils import load_video

    shortest, longest = prompt.size
    size = {"shortest_edge": shortest, "longest_edge": longest}
    processor = stock_processor(settings("video", size=size, cap_pixels_per_frame=prompt.cap), settings("image"))
    loaded = [load_video(str(file), backend="pyav") for file in files]
    text = processor.apply_chat_template(prompt.messages(), tokenize=False, add_generation_prompt=True)
    images = {"images": [prompt.image()]} if prompt.picture else {}
    given = {"videos": [video for video, _ in loaded], "video_metadata": [about for _, about in loaded]}
    sampling = {"do_sample_frames": True, **prompt.sampled}
    out = processor(text=[text], **images, **given, **sampling, return_tensors="pt", return_metadata=True)
    taken = [np.asarray(about.frames_indices) for about in out.pop("video_metadata")]
    return dict(out), [video[at] for (video, _), at in zip(loaded, taken, strict=True)]
