"""Floating point operations of each family's vision tower, with what brings its output to the decoder's width."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

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


def vision_flops(shape: Any, grid: Sequence[int], batch: int = 1) -> int:
    """Count the vision tower of a model of config ``shape``, with its merger, mergers or projector.

    Args:
        shape: the model's config.
        grid: (positions, rows, columns) of the tokens of a video.
        batch: such videos.

    Raises:
        ConfigError: as `check_counted`.
    """
    check_counted(shape)
    return batch * _TOWERS[shape.model_type](shape, form_of(shape), *grid)


def _merged(
    form: PromptForm, cells: int, width: int, inner: int, depth: int, matrices: int, lengths: Sequence[Sequence[int]]
) -> int:
    """Count a tower of ``depth`` blocks over one position; ``lengths`` are, of each block, those that attend."""
    patches = cells * form.merge**2
    embedding = 2 * patches * CHANNELS * form.frames * form.patch**2 * width
    linear = 2 * patches * (4 * width**2 + matrices * width * inner)
    return embedding + depth * linear + sum(4 * n * n * width for block in lengths for n in block)


def _merger(form: PromptForm, cells: int, width: int, out: int) -> int:
    joined = form.merge**2 * width
    return 2 * cells * joined * (joined + out)


def _windowed(shape: Any, form: PromptForm, positions: int, rows: int, columns: int) -> int:
    vision, unit = shape.vision_config, form.merge**2
    side = vision.window_size // form.patch // form.merge
    heights, widths = ([min(side, n - start) for start in range(0, n, side)] for n in (rows, columns))
    windows = [unit * h * w for h in heights for w in widths]  # smaller at the edges
    lengths = [
        [unit * rows * columns] if block in vision.fullatt_block_indexes else windows for block in range(vision.depth)
    ]
    width, cells = vision.hidden_size, rows * columns
    tower = _merged(form, cells, width, vision.intermediate_size, vision.depth, 3, lengths)
    return int(positions * (tower + _merger(form, cells, width, shape.text_config.hidden_size)))


def _whole(shape: Any, form: PromptForm, positions: int, rows: int, columns: int) -> int:
    """Frames attend within themselves in every block; DeepStack has a merger of its own for each of its blocks."""
    vision, cells = shape.vision_config, rows * columns
    width = getattr(vision, "embed_dim", vision.hidden_size)
    inner = int(width * vision.mlp_ratio) if hasattr(vision, "mlp_ratio") else vision.intermediate_size
    mergers = 1 + len(getattr(vision, "deepstack_visual_indexes", ()))
    lengths = [[form.merge**2 * cells]] * vision.depth
    tower = _merged(form, cells, width, inner, vision.depth, 2, lengths)
    return int(positions * (tower + mergers * _merger(form, cells, width, shape.text_config.hidden_size)))


def _images(projected: Callable[[Any, PromptForm, int], tuple[int, int]]) -> Callable[..., int]:
    """Count a tower of whole images; ``projected`` tells how many tokens of an image are, and of how many channels."""

    def count(shape: Any, form: PromptForm, positions: int, rows: int, columns: int) -> int:
        vision, patches = shape.vision_config, form.side**2
        width, inner, depth = vision.hidden_size, vision.intermediate_size, vision.num_hidden_layers
        seen = patches + (vision.model_type in (CLIP, "internvl_vision"))  # CLS
        tower = 2 * patches * CHANNELS * form.patch**2 * width
        tower += depth * (2 * seen * (4 * width**2 + 2 * width * inner) + 4 * seen**2 * width)
        tokens, channels = projected(shape, form, rows * columns)
        out = shape.text_config.hidden_size
        return int(positions * form.tiles * (tower + 2 * tokens * out * (channels + out)))

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
