"""The families as the tests see them: each is one row, and every oracle runs over all rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from prunevid_qwen.adapters.seams import transformers_release
from prunevid_qwen.adapters.tiny import SIDE, installed_families
from prunevid_qwen.adapters.tiny.two_towers import image_pixels
from tests.models import make_inputs, tiny_model

_IMAGE = ("image", SIDE, SIDE)


@dataclass(frozen=True)
class Family:
    """One row.

    Args:
        cases: prompts by name, as `make_inputs` takes them: "one" is one row with one image or video, "batch" has rows
            of unlike length, several images or videos in one of them, and a text.
        towers: the vision towers' names among the root's modules.
        pixels: arguments that bring them, as `generate` takes them.
        asks: the function that `generate` hands the whole prompt: the root's for its positions, or the model's.
        positions: leading dimensions of the position ids that the decoder is given, before [B, S].
        options: of a config, without which stage 1 finds nothing to do.
        scrambled: releases of transformers whose stock `generate` hands copies of a row the frames of others.
        linear: the first and the last layer have linear attention, whose state forgets no token: recomputing on the
            short sequence takes masking's place, and the library refuses to take candidates back.
        norms: of the queries and keys of each layer, where a family has them.
        late: tokens of "batch" that some releases add to what they made of videos, in the forward.
    """

    cases: Mapping[str, Any]
    towers: tuple[str, ...]
    pixels: tuple[str, ...]
    asks: str
    positions: tuple[int, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    norms: tuple[str, ...] = ()
    scrambled: tuple[str, ...] = ()
    late: int = 0
    linear: bool = False


_QWEN_CASES = {
    "one": [[("text", 4), ("video", 4, 4, 5), ("text", 6)]],
    "batch": [
        [("text", 4), ("video", 4, 4, 5), ("text", 6)],
        [("text", 3), ("image", 3, 3), ("text", 2), ("video", 2, 4, 4), ("text", 7)],
        [("text", 8)],
    ],
}
_QWEN = (_QWEN_CASES, ("visual",), ("pixel_values_videos", "pixel_values"), "get_rope_index", (4,))
_NEXT_VIDEO = Family(
    {
        "one": [[("text", 5), ("video", 4), ("text", 6)]],
        "batch": [
            [("text", 5), ("video", 4), ("text", 6)],
            [("text", 3), ("image", 110, 105), ("text", 2), ("video", 4), ("video", 4), ("text", 7)],
            [("text", 8)],
        ],
    },
    ("vision_tower",),
    ("pixel_values_videos", "pixel_values"),
    "_expand_inputs_for_generation",
    (),
)
_ROWS = {
    "qwen2_5_vl": Family(*_QWEN), "qwen2_vl": Family(*_QWEN),
    "qwen3_vl": Family(*_QWEN, norms=("q_norm", "k_norm")), "qwen3_vl_moe": Family(*_QWEN, norms=("q_norm", "k_norm")),
    "qwen3_5": Family(*_QWEN, norms=("q_norm", "k_norm"), linear=True),
    "qwen3_5_moe": Family(*_QWEN, norms=("q_norm", "k_norm"), linear=True),
    "llava": Family(
        {
            "one": [[("text", 5), _IMAGE, ("text", 6)]],
            "batch": [
                [("text", 5), _IMAGE, ("text", 6)],
                [("text", 3), _IMAGE, _IMAGE, ("text", 2), _IMAGE, ("text", 7)],
                [("text", 8)],
            ],
        },
        ("vision_tower",), ("pixel_values",), "_expand_inputs_for_generation", (), {"merge_images": True},
    ),
    "llava_next": Family(
        {
            "one": [[("text", 5), ("image", 100, 200), ("text", 6)]],
            "batch": [
                [("text", 5), ("image", 50, 90), ("text", 6)],
                [("text", 3), *[("image", 200, 70)] * 2, ("text", 2), ("image", 200, 70), ("text", 7)],
                [("text", 8)],
            ],
        },
        ("vision_tower",), ("pixel_values",), "_expand_inputs_for_generation", (), {"merge_images": True},
    ),
    "llava_next_video": _NEXT_VIDEO, "llava_onevision": replace(_NEXT_VIDEO, late=3),
    "video_llava": Family(
        {
            "one": [[("text", 5), ("video", 4), ("text", 6)]],
            "batch": [
                [("text", 5), ("video", 4), ("text", 6)],
                [("text", 3), ("image",), ("text", 2), ("video", 4), ("video", 4), ("text", 7)],
                [("text", 8)],
            ],
        },
        ("image_tower", "video_tower"), ("pixel_values_videos", image_pixels()), "_expand_inputs_for_generation", (),
        scrambled=("5.18.0",),
    ),
    "internvl": Family(
        {
            "one": [[("text", 5), ("image", 1), ("text", 6)]],
            "batch": [
                [("text", 5), ("image", 2), ("text", 6)],
                [("text", 3), ("video", 3), ("text", 2), ("image", 1), ("text", 7)],
                [("text", 8)],
            ],
        },
        ("vision_tower",), ("pixel_values",), "_expand_inputs_for_generation", (), {"merge_images": True},
    ),
}  # fmt: skip
FAMILIES = {name: row for name, row in _ROWS.items() if name in installed_families()}
ATTENDING = [name for name, row in FAMILIES.items() if not row.linear]  # in every layer
_VARIANTS = ("qwen3_vl_moe", "qwen3_5_moe")  # experts apart, each is another row


def often(families: Iterable[str] = FAMILIES) -> list[Any]:
    """Families for a test of `make test`; rows that differ from another in their experts alone are nightly."""
    return [pytest.param(each, marks=pytest.mark.nightly) if each in _VARIANTS else each for each in families]


def crossed(values: Iterable[Any], usual: Any, families: Iterable[str] = FAMILIES) -> list[Any]:
    """Each value with each family: ``make test`` has all of the first family and the usual one of `often`."""
    first, *_ = families
    every = [(value, family) for value in values for family in families]
    fast = {True: (), False: pytest.mark.nightly}
    return [
        pytest.param(value, family, marks=fast[family == first or (value == usual and family not in _VARIANTS)])
        for value, family in every
    ]


def family_model(family: str, attention: str = "sdpa") -> Any:
    """The tiny model of a family, the same object each time."""
    return tiny_model(attention, family)


def family_inputs(family: str, case: str) -> dict[str, Any]:
    """Inputs of one of its cases."""
    return make_inputs(FAMILIES[family].cases[case], family=family)


def skip_scrambled(family: str) -> None:
    """Skip a test of copies of a row where the stock model itself mixes them up."""
    if transformers_release() in FAMILIES[family].scrambled:
        pytest.skip("the stock generate of this release hands copies of a row the frames of others")


def member(family: str, case: str, b: int) -> dict[str, Any]:
    """Cut one row, its pads and the pixels of others off."""
    return make_inputs(FAMILIES[family].cases[case], family=family, only=b)
