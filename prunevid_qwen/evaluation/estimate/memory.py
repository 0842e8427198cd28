"""Bytes that a prompt takes above the weights, moment by moment, as the tensors of the library's own modules add up.

Each term below is a tensor that is alive at that moment in transformers' code of a Qwen-VL: who changes that code
changes a term. The test holds the sum against the measured peak of a process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prunevid_qwen.errors import UnsupportedError
from prunevid_qwen.evaluation.speed.flops import attended, fed, grouped, head
from prunevid_qwen.evaluation.speed.prompt_forms import CHANNELS, form_of

_FP32 = 4
_INNER = {"qwen2_vl": 3, "qwen2_5_vl": 3, "qwen3_vl": 2, "qwen3_vl_moe": 2}
"""Tensors of the tower's inner width that a block's MLP holds at once: a gate, its like and their product; a quick GELU
of one; a GELU of one."""


@dataclass(frozen=True)
class Load:
    """What is put through a model.

    Args:
        positions: temporal positions of each row's video.
        cells: visual tokens of a position.
        length: tokens of a row before pruning, text included.
        widths: tokens of each layer, text included; the widest row's.
        cut: the layer behind which the cache of all layers before it is cut to what is left; None: it is not.
        merged: the prompt is pruned, so its states are copied at the door.
        chunk: visual tokens that the vision encoder takes at once; None: all.
        batch: rows.
        bytes: of a number of weights and states.
    """

    positions: int
    cells: int
    length: int
    widths: tuple[int, ...]
    cut: int | None = None
    merged: bool = False
    chunk: int | None = None
    batch: int = 1
    bytes: int = 2

    @property
    def visual(self) -> int:
        """Visual tokens of all rows before pruning."""
        return self.batch * self.positions * self.cells

    @property
    def at_once(self) -> int:
        """Visual tokens in the largest chunk: whole positions, at least one."""
        if self.chunk is None:
            return self.visual
        return min(self.visual, max(1, self.chunk // self.cells) * self.cells)


@dataclass(frozen=True)
class Footprint:
    """Bytes above the weights and the pixels.

    Args:
        vision: at the vision encoder's fullest moment.
        decoder: at the decoder's fullest moment, the cache so far included.
        cache: keys and values after the prompt.
        features: the encoded videos, which are held until the prompt is through.
        pixels: of one chunk on its way into the encoder. Not part of the others.
    """

    vision: int
    decoder: int
    cache: int
    features: int
    pixels: int

    @property
    def peak(self) -> int:
        """The larger of both moments."""
        return max(self.vision, self.decoder)


def footprint(shape: Any, load: Load) -> Footprint:
    """Return the bytes of a prefill of a model of config ``shape``.

    Raises:
        UnsupportedError: the memory of this family is not counted.
    """
    check_counted(shape)
    b, text, features = load.bytes, shape.text_config, _features(shape, load)
    patches = form_of(shape).merge ** 2 * load.visual
    left = b * patches * _tower_width(shape)  # the tower's last states, which its output holds
    held = features + left
    door = b * load.batch * load.length * text.hidden_size  # embeddings of the prompt, which the caller holds
    # of the tower's list and of the model's: each kind of feature twice
    around = door + left + 2 * features
    entry = 2 * grouped(shape) * b * load.batch
    final = entries_after(load.widths, load.cut)
    decoder = 0
    for layer, n in enumerate(load.widths):
        cut = load.cut is not None and layer > load.cut
        entries = sum((final if cut else load.widths)[:layer]) + n
        rows = b * load.batch * n
        states = (4 if load.merged else 3) * text.hidden_size + 2 * head(text)
        inner = 3 * fed(text, layer)[0]
        heads = 4 * attended(shape)  # queries, keys and values of all heads, and what they give
        deep = _deep(shape) * text.hidden_size if load.merged else 0
        decoder = max(decoder, around + entries * entry + rows * (states + deep + max(inner, heads)))
    vision = _tower(shape, load) + (0 if load.at_once == load.visual else held)
    return Footprint(
        vision=max(vision, 2 * held if load.at_once < load.visual else 0),  # chunks, and all of them in one tensor
        decoder=decoder,
        cache=entry * sum(final),
        features=features,
        pixels=b
        * form_of(shape).merge ** 2
        * load.at_once
        * CHANNELS
        * form_of(shape).frames
        * form_of(shape).patch ** 2,
    )


def check_counted(shape: Any) -> None:
    """Refuse a family whose memory is not counted.

    Raises:
        UnsupportedError: as it says.
    """
    if shape.model_type not in _INNER:
        raise UnsupportedError(
            f"the memory of {shape.model_type} is not counted: {', '.join(_INNER)} are. `prunevid bench speed --shape` "
            "measures a model of any family"
        )


def _deep(shape: Any) -> int:
    """Return the kinds of features beside those that stand in the prompt."""
    return len(getattr(shape.vision_config, "deepstack_visual_indexes", None) or ())


def _features(shape: Any, load: Load) -> int:
    return int(load.bytes * load.visual * shape.text_config.hidden_size * (1 + _deep(shape)))


def _tower_width(shape: Any) -> int:
    vision = shape.vision_config
    return int(vision.embed_dim if shape.model_type == "qwen2_vl" else vision.hidden_size)


def _tower(shape: Any, load: Load) -> int:
    """Return the bytes of one chunk in a block of the tower: in its MLP, or where queries and keys are turned."""
    vision, b, width = shape.vision_config, load.bytes, _tower_width(shape)
    inner = width * vision.mlp_ratio if shape.model_type == "qwen2_vl" else vision.intermediate_size
    patches = form_of(shape).merge ** 2 * load.at_once
    turning = 2 * _FP32 * (width // vision.num_heads)  # cosines and sines, always fp32
    mlp = b * (_INNER[shape.model_type] * inner + 3 * width)
    # turned in fp32: four tensors, and queries and keys themselves where they have to be converted
    attention = b * 5 * width + _FP32 * (4 if b == _FP32 else 6) * width
    return int(patches * (max(mlp, attention) + turning))


def weight_bytes(shape: Any, bytes_each: int) -> int:
    """Return the bytes of a model's weights: it is built without memory, and its parameters are counted.

    Args:
        shape: the model's config.
        bytes_each: of a parameter.
    """
    import torch
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        model: Any = AutoModelForImageTextToText.from_config(shape)
    return bytes_each * sum(each.numel() for each in model.parameters())


def entries_after(widths: Sequence[int], cut: int | None) -> list[int]:
    """Return the tokens in each layer's cache after the prompt."""
    return [widths[-1] if cut is not None and k <= cut else n for k, n in enumerate(widths)]
