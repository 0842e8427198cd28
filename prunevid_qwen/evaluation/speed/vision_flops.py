"""Floating point operations of each family's vision tower, with what brings its output to the decoder's width.

A tower that copies what stands still runs on the rest alone. Its queries are those of what it encodes, and its keys
those of the whole picture, since what is copied lends its keys.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from prunevid_qwen.errors import ConfigError
from prunevid_qwen.evaluation.speed.prompt_forms import CHANNELS, CLIP, PromptForm, form_of

_NOT_COUNTED = {
    **dict.fromkeys(
        ("qwen3_5", "qwen3_5_moe"),
        "most of its layers have linear attention, whose operations depend on the chunks in which a kernel takes "
        "tokens, so no count would say what ran",
    )
}


def check_counted(shape: Any) -> None:
    """Refuse the config of a model whose FLOPs are not counted.

    Raises:
        ConfigError: of such a family, or with a tower of another kind; it says why.
    """
    why = _NOT_COUNTED.get(shape.model_type)
    if why is None and shape.model_type not in _TOWERS:
        why = f"counted are {', '.join(_TOWERS)}"
    if why is None and getattr(getattr(shape, "vision_config", None), "vision_use_head", False):
        why = "its tower ends with a pooling head"
    if why is not None:
        raise ConfigError(f"the speed benchmark does not count the FLOPs of this {shape.model_type}: {why}")


def vision_flops(
    shape: Any, grid: Sequence[int], batch: int = 1, encoded: Sequence[Sequence[tuple[int, Tensor]]] = ()
) -> int:
    """Count the vision tower of a model of config ``shape``, with its merger, mergers or projector.

    Args:
        shape: the model's config.
        grid: (positions, rows, columns) of the tokens of a video.
        batch: such videos.
        encoded: for each of them what was encoded, as pairs of the first block that ran on it and [positions, units]
            bool; the first pair is of block 0. () counts a tower that encoded all. A unit is a token where the tower
            takes patches, and a patch where it takes whole images.

    Raises:
        ConfigError: as `check_counted`.
    """
    check_counted(shape)
    form, count = form_of(shape), _TOWERS[shape.model_type]
    if not encoded:
        return batch * count(shape, form, *grid, [(0, _all_units(form, *grid))])
    return sum(count(shape, form, *grid, each) for each in encoded)


def units_run(source: Tensor, form: PromptForm, positions: int) -> list[tuple[int, Tensor]]:
    """Return what of a video was encoded, as `vision_flops` takes it.

    Args:
        source: [tokens, 2] of `SampleTrace.source`, whose second column tells how many blocks ran on each token.
        form: of the prompt. Of a tower of whole images, whose tokens stand for several patches, the share is known, and
            not which patches: as many are taken as encoded, which makes the same count.
        positions: of the video.
    """
    ran = source[:, 1]
    if form.merge:
        ran = ran.view(positions, -1)
        return [(least, ran > least) for least in sorted({0, *ran.unique().tolist()})]
    patches = torch.zeros(positions * form.tiles * form.side**2, dtype=torch.bool)
    patches[: round(share_run([source]) * len(patches))] = True
    return [(0, patches.view(positions, -1))]


def share_run(sources: Sequence[Tensor]) -> float:
    """Return the share of the tower's work on all blocks and places that was done; sources as in `units_run`."""
    ran = torch.cat([source[:, 1] for source in sources]).double()
    return float(ran.mean() / ran.max())  # the first position of a video is encoded whole


def _all_units(form: PromptForm, positions: int, rows: int, columns: int) -> Tensor:
    return torch.ones(positions, rows * columns if form.merge else form.tiles * form.side**2, dtype=torch.bool)


_Runs = Sequence[tuple[int, Tensor]]  # of `vision_flops.encoded`, of one video


def _at(block: int, runs: _Runs) -> Tensor:
    return next(mask for first, mask in reversed(runs) if first <= block)


def _merged(
    form: PromptForm, runs: _Runs, width: int, inner: int, matrices: int, pairs: Sequence[int], merger: int
) -> int:
    """Count a tower of patches: ``pairs`` are of queries and keys in units, of each block; ``merger`` is of a unit."""
    unit, units = form.merge**2, [int(_at(block, runs).sum()) for block in range(len(pairs))]
    embedding = 2 * unit * int(runs[0][1].sum()) * CHANNELS * form.frames * form.patch**2 * width
    linear = sum(2 * unit * n * (4 * width**2 + matrices * width * inner) for n in units)
    return embedding + linear + 4 * width * unit**2 * sum(pairs) + units[-1] * merger


def _merger(form: PromptForm, width: int, out: int) -> int:
    joined = form.merge**2 * width
    return 2 * joined * (joined + out)


def _windowed(shape: Any, form: PromptForm, positions: int, rows: int, columns: int, runs: _Runs) -> int:
    vision = shape.vision_config
    side = vision.window_size // form.patch // form.merge

    def pairs(block: int) -> int:
        shown = _at(block, runs).view(positions, rows, columns)
        if block in vision.fullatt_block_indexes:
            return int(shown.sum()) * rows * columns
        # smaller at the edges
        windows = [strip for part in shown.split(side, dim=1) for strip in part.split(side, dim=2)]
        return sum(int(window.sum()) * window[0].numel() for window in windows)

    width = vision.hidden_size
    merger = _merger(form, width, shape.text_config.hidden_size)
    return _merged(form, runs, width, vision.intermediate_size, 3, [pairs(b) for b in range(vision.depth)], merger)


def _whole(shape: Any, form: PromptForm, positions: int, rows: int, columns: int, runs: _Runs) -> int:
    """Frames attend within themselves in every block; DeepStack has a merger of its own for each of its blocks."""
    vision, cells = shape.vision_config, rows * columns
    width = getattr(vision, "embed_dim", vision.hidden_size)
    inner = int(width * vision.mlp_ratio) if hasattr(vision, "mlp_ratio") else vision.intermediate_size
    pairs = [int(_at(block, runs).sum()) * cells for block in range(vision.depth)]
    deep, merger = getattr(vision, "deepstack_visual_indexes", ()), _merger(form, width, shape.text_config.hidden_size)
    taps = sum(int(_at(block, runs).sum()) * merger for block in deep)
    return _merged(form, runs, width, inner, 2, pairs, merger) + taps


def _images(projected: Callable[[Any, PromptForm, int], tuple[int, int]]) -> Callable[..., int]:
    """Count a tower of whole images; ``projected`` tells how many tokens of an image are, and of how many channels."""

    def count(shape: Any, form: PromptForm, positions: int, rows: int, columns: int, runs: _Runs) -> int:
        vision, patches, images = shape.vision_config, form.side**2, positions * form.tiles
        width, inner, depth = vision.hidden_size, vision.intermediate_size, vision.num_hidden_layers
        cls = int(vision.model_type in (CLIP, "internvl_vision"))
        tower = 2 * int(runs[0][1].sum()) * CHANNELS * form.patch**2 * width
        for block in range(depth):
            queries = int(_at(block, runs).sum()) + images * cls  # CLS sees a picture that changed
            tower += queries * (2 * (4 * width**2 + 2 * width * inner) + 4 * (patches + cls) * width)
        tokens, channels = projected(shape, form, rows * columns)
        out = shape.text_config.hidden_size
        return int(tower + images * 2 * tokens * out * (channels + out))

    return count


def _chosen(shape: Any) -> int:
    """Channels of what is projected: of several blocks they stand side by side."""
    chosen = shape.vision_feature_layer
    return int(shape.vision_config.hidden_size * (1 if isinstance(chosen, int) else len(chosen)))


_TOWERS: dict[str, Callable[..., int]] = {
    "qwen2_5_vl": _windowed,
    "qwen2_vl": _whole,
    "qwen3_vl": _whole,
    "qwen3_vl_moe": _whole,
    "llava": _images(lambda shape, form, cells: (cells + form.more, _chosen(shape))),
    "llava_next": _images(lambda shape, form, cells: (form.side**2, _chosen(shape))),
    "llava_next_video": _images(lambda shape, form, cells: (cells, _chosen(shape))),  # pooled before
    "llava_onevision": _images(lambda shape, form, cells: (form.side**2, _chosen(shape))),  # pooled after
    "video_llava": _images(lambda shape, form, cells: (cells + form.more, _chosen(shape))),
    "internvl": _images(lambda shape, form, cells: (cells, form.side**2 // cells * shape.vision_config.hidden_size)),
}
