"""Tiny random models of each family's real architecture, and hand-made inputs: no download, no processor, a tenth of a
second on a CPU. The self-check and the tests prove what they prove on these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import torch

PAD, EOS, START, END, IMAGE, VIDEO, VOCAB = 0, 1, 2, 3, 4, 5, 300
MERGE, PATCH, SIDE = 2, 14, 4

TinyRow = Sequence[tuple[Any, ...]]
"""One prompt: a list of ("text", n), ("video", T, H, W) and ("image", H, W), in tokens as the decoder gets them."""


class TinyMedia(Protocol):
    """Collects the images and videos of some prompts."""

    def show(self, kind: str, size: Sequence[int], numbers: torch.Generator) -> tuple[list[int], list[int]]:
        """Make pixels of one; return its token ids and their types: 0 text, 1 image, 2 video."""
        ...

    def inputs(self) -> dict[str, Any]:
        """Return what `generate` takes of all that was made."""
        ...


@dataclass(frozen=True)
class TinyBatch:
    """What the self-check shows a model: two rows of unlike length, so that one is padded.

    Args:
        rows: of each frame's tokens an even number.
        text: tokens of each row that are not visual, with those that stand around videos and images.
        tokens: of each row's images and videos.
        merged: half of each frame's, where nothing is static and stage 1 does not pass it.
        options: of a config, beside those of every family.
    """

    rows: tuple[TinyRow, TinyRow]
    text: tuple[int, int]
    tokens: tuple[tuple[int, ...], tuple[int, ...]]
    merged: tuple[tuple[int, ...], tuple[int, ...]]
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TinyFamily:
    """How a tiny model of a family is built, and its inputs.

    Args:
        name: what the library's classes of it begin with.
        parts: from the decoder's config, what the model's config is made of.
        media: collects the images and videos of one call.
        shown: by the self-check.
        typed: prompts bring ``mm_token_type_ids`` along.
    """

    name: str
    parts: Callable[[dict[str, Any]], dict[str, Any]]
    media: Callable[[], TinyMedia]
    shown: TinyBatch
    typed: bool = False


def _qwen(**vision: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
    shared = {"depth": 1, "num_heads": 2, "patch_size": PATCH, "spatial_merge_size": MERGE, "temporal_patch_size": 2}
    ids = {
        "image_token_id": IMAGE, "video_token_id": VIDEO, "vision_start_token_id": START, "vision_end_token_id": END,
    }  # fmt: skip
    return lambda text: {
        "text_config": {**text, "rope_parameters": rope}, "vision_config": {**shared, **vision},
        "tie_word_embeddings": False, **ids,
    }  # fmt: skip


def _llava(text: dict[str, Any]) -> dict[str, Any]:
    vision = {
        "model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
        "num_attention_heads": 2, "image_size": SIDE * PATCH, "patch_size": PATCH, "projection_dim": 32,
    }  # fmt: skip
    return {
        "text_config": {**text, "model_type": "llama"}, "vision_config": vision, "image_token_index": IMAGE,
        "image_seq_length": SIDE**2, "vision_feature_layer": -2, "vision_feature_select_strategy": "default",
    }  # fmt: skip


class _QwenMedia:
    """Images and videos of any grid, a start and an end token around each; videos are still scenes with noise."""

    def __init__(self, seconds: bool) -> None:
        self.seconds = seconds
        self.grids: dict[int, list[list[int]]] = {1: [], 2: []}
        self.pixels: dict[int, list[torch.Tensor]] = {1: [], 2: []}

    def show(self, kind: str, size: Sequence[int], numbers: torch.Generator) -> tuple[list[int], list[int]]:
        which, token = (2, VIDEO) if kind == "video" else (1, IMAGE)
        t, h, w = size if kind == "video" else (1, *size)
        n = t * h * w
        self.grids[which].append([t, MERGE * h, MERGE * w])
        self.pixels[which].append(_scene(t, h * w, numbers))
        return [START, *[token] * n, END], [0, *[which] * n, 0]

    def inputs(self) -> dict[str, Any]:
        out: dict[str, Any] = {}
        if self.grids[2]:
            out["video_grid_thw"] = torch.tensor(self.grids[2])
            out["pixel_values_videos"] = torch.cat(self.pixels[2])
            if self.seconds:
                out["second_per_grid_ts"] = torch.tensor([2.25 + 0.5 * i for i in range(len(self.grids[2]))])
        if self.grids[1]:
            out["image_grid_thw"] = torch.tensor(self.grids[1])
            out["pixel_values"] = torch.cat(self.pixels[1])
        return out


class _LlavaMedia:
    """Images of one grid, with nothing around them."""

    def __init__(self) -> None:
        self.pixels: list[torch.Tensor] = []

    def show(self, kind: str, size: Sequence[int], numbers: torch.Generator) -> tuple[list[int], list[int]]:
        if (kind, *size) != ("image", SIDE, SIDE):
            raise ValueError(f'a tiny llava shows ("image", {SIDE}, {SIDE}), got {(kind, *size)}')
        self.pixels.append(torch.randn(3, SIDE * PATCH, SIDE * PATCH, generator=numbers))
        return [IMAGE] * SIDE**2, [1] * SIDE**2

    def inputs(self) -> dict[str, Any]:
        return {"pixel_values": torch.stack(self.pixels)} if self.pixels else {}


_SCENES = TinyBatch(  # an image, which passes, and videos
    (
        (("text", 2), ("image", 3, 3), ("text", 1), ("video", 2, 4, 4), ("text", 5)),
        (("text", 3), ("video", 3, 2, 4), ("text", 5)),
    ),
    (12, 10), ((9, 32), (24,)), ((9, 16), (12,)),
)  # fmt: skip
_IMAGES = TinyBatch(  # two of them side by side
    (
        (("text", 3), ("image", SIDE, SIDE), ("image", SIDE, SIDE), ("text", 5)),
        (("text", 2), ("image", SIDE, SIDE), ("text", 5)),
    ),
    (8, 7), ((16, 16), (16,)), ((8, 8), (8,)), {"merge_images": True},
)  # fmt: skip
_QWEN2_5 = {
    "hidden_size": 32, "intermediate_size": 48, "window_size": 56, "out_hidden_size": 64, "fullatt_block_indexes": [0],
    "tokens_per_second": 2,
}  # fmt: skip
_QWEN2 = {"embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2}

FAMILIES: Mapping[str, TinyFamily] = {
    "qwen2_5_vl": TinyFamily("Qwen2_5_VL", _qwen(**_QWEN2_5), partial(_QwenMedia, seconds=True), _SCENES, typed=True),
    "qwen2_vl": TinyFamily("Qwen2VL", _qwen(**_QWEN2), partial(_QwenMedia, seconds=False), _SCENES, typed=True),
    "llava": TinyFamily("Llava", _llava, _LlavaMedia, _IMAGES),
}


def tiny_model(family: str, layers: int = 6, attention: str = "sdpa", dtype: torch.dtype = torch.float32) -> Any:
    """Make a model of ``layers`` layers with weights large enough that attention is not uniform.

    The weights are the same every time. The library first draws others from torch's global generator: a caller that
    must leave that as found puts it back.

    Args:
        family: a ``model_type`` of `FAMILIES`.
        layers: decoder layers.
        attention: "sdpa", "eager" or another implementation that the library knows.
        dtype: of the weights; they are drawn in fp32.

    Raises:
        KeyError: there is no tiny model of this family.
    """
    import transformers

    row = FAMILIES[family]
    text = {
        "vocab_size": VOCAB, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": layers,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096,
        "bos_token_id": None, "eos_token_id": EOS, "pad_token_id": PAD,
    }  # fmt: skip
    kind = getattr(transformers, f"{row.name}ForConditionalGeneration")
    config = getattr(transformers, f"{row.name}Config")(**row.parts(text))
    config._attn_implementation = attention
    model = kind._from_config(config, attn_implementation=attention)
    numbers = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim >= 2:
                scale = 0.5 if "embed_tokens" in name else 1.5 / weight[0].numel() ** 0.5
                weight.copy_(torch.randn(weight.shape, generator=numbers) * scale)
    model.generation_config.pad_token_id = PAD
    model.generation_config.eos_token_id = VOCAB  # never made, so never stop: sequences of equal length compare simply
    return model.to(dtype).eval()


def tiny_inputs(samples: Sequence[TinyRow], seed: int = 0, family: str = "qwen2_5_vl") -> dict[str, Any]:
    """Make left-padded inputs. Videos are a still scene with noise on some cells, so that stage 1 finds static tokens.

    Args:
        samples: one prompt a row.
        seed: of text and pixels.
        family: a ``model_type`` of `FAMILIES`.

    Returns:
        What `generate` takes: input_ids and attention_mask [B, S], pixels fp32, and what else the family is given: of
        Qwen's mm_token_type_ids [B, S], grids [n, 3] and seconds between temporal positions [videos].
    """
    numbers = torch.Generator().manual_seed(seed)
    row = FAMILIES[family]
    media = row.media()
    rows: list[list[int]] = []
    types: list[list[int]] = []
    for sample in samples:
        ids: list[int] = []
        kinds: list[int] = []
        for kind, *size in sample:
            if kind == "text":
                own = torch.randint(10, VOCAB, (size[0],), generator=numbers).tolist()
                shown = own, [0] * size[0]
            else:
                shown = media.show(kind, size, numbers)
            ids += shown[0]
            kinds += shown[1]
        rows.append(ids)
        types.append(kinds)
    width = max(map(len, rows))
    pad = [width - len(ids) for ids in rows]
    out: dict[str, Any] = {
        "input_ids": torch.tensor([[PAD] * p + ids for p, ids in zip(pad, rows, strict=True)]),
        "attention_mask": torch.tensor([[0] * p + [1] * len(ids) for p, ids in zip(pad, rows, strict=True)]),
    }
    if row.typed:
        out["mm_token_type_ids"] = torch.tensor(
            [[0] * p + kinds for p, kinds in zip(pad, types, strict=True)], dtype=torch.int32
        )
    return {**out, **media.inputs()}


def _scene(t: int, cells: int, numbers: torch.Generator) -> torch.Tensor:
    still = torch.randn(1, cells, MERGE * MERGE * 3 * 2 * PATCH * PATCH, generator=numbers)
    noise = torch.randn(t, cells, still.shape[-1], generator=numbers)
    moves = (torch.rand(1, cells, 1, generator=numbers) < 0.5).float()
    return (still + noise * (0.05 + moves)).reshape(t * cells * MERGE * MERGE, -1)
