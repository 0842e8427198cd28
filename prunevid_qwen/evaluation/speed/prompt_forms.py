"""How each family's prompts are written by hand: what stands around its frames, and in which form it takes pixels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from prunevid_qwen.errors import ConfigError

CHANNELS = 3


@dataclass(frozen=True)
class PromptForm:
    """How a video, or as many images, stand in a prompt.

    Args:
        kind: "video" or "image": what is shown in a prompt, and how its placeholders are called.
        patch: side of a patch in pixels.
        frames: of a temporal position.
        merge: patches per side of a token, where the model takes frames of any size as patches; 0: it takes whole
            images of one size.
        grid: (rows, columns) of a frame's tokens where all have the same; None: of any.
        side: patches per side of a whole image.
        tiles: images that the tower is given of each frame.
        more: visual tokens of a frame beside those of ``grid``: its tiles and their newlines, CLS.
        led: of ``more``, those that stand before the frame.
        ends: visual tokens at the end of a whole video: newlines.
        times: text tokens before each frame: its time, or its number.
        brackets: "" where none, "whole" where a start and an end token stand around a video, "each" around each frame.
        stacked: pixels are [videos, T, ...], each video apart; else [images, ...], one after the other.
        typed: ``mm_token_type_ids`` are passed along.
        timed: ``second_per_grid_ts`` are passed along.
    """

    kind: str
    patch: int
    frames: int = 1
    merge: int = 0
    grid: tuple[int, int] | None = None
    side: int = 0
    tiles: int = 1
    more: int = 0
    led: int = 0
    ends: int = 0
    times: int = 0
    brackets: str = ""
    stacked: bool = False
    typed: bool = False
    timed: bool = False

    @property
    def marks(self) -> int:
        """Start and end tokens of a prompt of one frame."""
        return 2 if self.brackets else 0

    def unplaced(self, positions: int) -> int:
        """Count the visual tokens without a place in the grid of a video of so many positions."""
        return positions * self.more + self.ends if self.kind == "video" else 0

    def visual(self, positions: int, cells: int) -> int:
        """Count the visual tokens of so many positions of so many cells."""
        return positions * (cells + self.more) + self.ends

    def text(self, positions: int) -> int:
        """Count the text tokens that stand around the frames of so many positions."""
        return positions * self.times + self.marks * (positions if self.brackets == "each" else 1)


def form_of(config: Any) -> PromptForm:
    """Return how prompts of a model are written.

    Args:
        config: the model's.

    Raises:
        ConfigError: of another family.
    """
    make = _FORMS.get(config.model_type)
    if make is None:
        raise ConfigError(
            f"the speed benchmark writes prompts for {', '.join(_FORMS)}, got {config.model_type!r}: name one of its "
            "shapes, or a model of one of these"
        )
    return make(config)


def _patches(**given: Any) -> Callable[[Any], PromptForm]:
    def form(config: Any) -> PromptForm:
        seen = config.vision_config
        sizes = {"patch": seen.patch_size, "frames": seen.temporal_patch_size, "merge": seen.spatial_merge_size}
        return PromptForm("video", **sizes, typed=True, **given)

    return form


def _side(config: Any) -> tuple[int, int]:
    """Return the side of a patch in pixels, and of an image in patches."""
    size, patch = (
        each if isinstance(each, int) else each[0]
        for each in (config.vision_config.image_size, config.vision_config.patch_size)
    )
    return patch, size // patch


def _llava(config: Any) -> PromptForm:
    patch, side = _side(config)
    cls = int(config.vision_feature_select_strategy == "full" and config.vision_config.model_type == CLIP)
    return PromptForm("image", patch, grid=(side, side), side=side, more=cls, led=cls)


def _next(config: Any) -> PromptForm:
    """An image whose sides are twice those of the tower's: the whole of it, four tiles, a newline after each row."""
    patch, side = _side(config)
    return PromptForm("image", patch, grid=(side, side), side=side, tiles=5, more=2 * side * (2 * side + 1))


def _pooled(ends: int) -> Callable[[Any], PromptForm]:
    def form(config: Any) -> PromptForm:
        patch, side = _side(config)
        rows = -(-side // getattr(config, "spatial_pool_stride", 2)) if ends else side // config.spatial_pool_stride
        return PromptForm("video", patch, grid=(rows, rows), side=side, ends=ends, stacked=True)

    return form


def _two_towers(config: Any) -> PromptForm:
    patch, side = _side(config)
    return PromptForm("video", patch, grid=(side, side), side=side, more=1, led=1, stacked=True)


def _numbered(config: Any) -> PromptForm:
    """Before each frame stands "Frame1: ", after it a line's end, which is among the four."""
    patch, side = _side(config)
    rows = int(side * config.downsample_ratio)
    return PromptForm("image", patch, grid=(rows, rows), side=side, times=4, brackets="each")


CLIP = "clip_vision_model"
_FORMS: dict[str, Callable[[Any], PromptForm]] = {
    "qwen2_5_vl": _patches(brackets="whole", timed=True),
    "qwen2_vl": _patches(brackets="whole"),
    "qwen3_vl": _patches(brackets="each", times=6),  # "<", "1", "2", ".", "3", " seconds>"
    "qwen3_vl_moe": _patches(brackets="each", times=6),
    "llava": _llava,
    "llava_next": _next,
    "llava_next_video": _pooled(0),
    "llava_onevision": _pooled(1),
    "video_llava": _two_towers,
    "internvl": _numbered,
}
