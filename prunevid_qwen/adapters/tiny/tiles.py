"""A tiny InternVL: tiles of one size, an image being some of them, a video one of each frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from prunevid_qwen.adapters.tiny.family import END, IMAGE, MERGE, PATCH, SIDE, START, VOCAB, TinyBatch, TinyFamily
from prunevid_qwen.adapters.tiny.two_towers import frames


def _internvl(text: dict[str, Any]) -> dict[str, Any]:
    vision = {
        "model_type": "internvl_vision", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 2, "image_size": [MERGE * SIDE * PATCH] * 2, "patch_size": [PATCH] * 2,
        "use_qk_norm": True,
    }  # fmt: skip
    return {
        "text_config": {**text, "model_type": "qwen2"}, "vision_config": vision, "image_token_id": IMAGE,
        "image_seq_length": SIDE**2, "downsample_ratio": 1 / MERGE, "tie_word_embeddings": False,
    }  # fmt: skip


class InternVLMedia:
    """Images of some tiles, a start and an end token around each, and videos with a text before each frame."""

    def __init__(self) -> None:
        self.tiles: list[torch.Tensor] = []

    def show(self, kind: str, size: Sequence[int], numbers: torch.Generator) -> tuple[list[int], list[int]]:
        """Make pixels of ("image", tiles) or ("video", T); return its token ids and their types."""
        self.tiles.append(frames(size[0], MERGE * SIDE, numbers))
        if kind == "image":
            cells = size[0] * SIDE**2
            return [START, *[IMAGE] * cells, END], [0, *[1] * cells, 0]
        ids: list[int] = []
        for _ in range(size[0]):
            ids += torch.randint(10, VOCAB, (2,), generator=numbers).tolist()
            ids += [START, *[IMAGE] * SIDE**2, END]
        return ids, [int(each == IMAGE) for each in ids]

    def inputs(self, first: int, last: int) -> dict[str, Any]:
        """Return what `generate` takes of those made from ``first`` on to before ``last``."""
        shown = self.tiles[first:last]
        return {"pixel_values": torch.cat(shown)} if shown else {}


_TILES = TinyBatch(  # two of an image side by side
    (
        (("text", 3), ("image", 2), ("text", 5)),
        (("text", 2), ("video", 1), ("text", 5)),
    ),
    (10, 11), ((16, 16), (16,)), ((8, 8), (8,)), {"merge_images": True},
)  # fmt: skip

INTERNVL: Mapping[str, TinyFamily] = {
    "internvl": TinyFamily("InternVL", _internvl, InternVLMedia, _TILES),
}
