"""Towers of CLIP's form for tests: what is drawn for them, what they return, and a plain loop over a canvas."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunevid_qwen.adapters import adapter_for
from prunevid_qwen.adapters.frame_tower import FrameTower
from prunevid_qwen.adapters.tiny import PATCH, SIDE
from prunevid_qwen.vision.carried import Count
from prunevid_qwen.vision.frame_reuse import FrameReuse
from prunevid_qwen.vision.options import VisionOptions
from tests.families import family_inputs, family_model

FAMILIES = ("llava_next_video", "llava_onevision", "video_llava")
CELLS = SIDE**2


def tower_of(family: str, attention: str = "sdpa") -> FrameTower:
    tower = adapter_for(family_model(family, attention)).frame_tower()
    assert tower is not None
    return tower


class Calls(Count):
    """Keeps what was told of each call: patches, those that entered the tower, those that went through it."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int, int]] = []

    def add(self, units: int, entered: int, encoded: int) -> None:
        self.seen.append((units, entered, encoded))


@contextmanager
def reused(
    family: str, threshold: float | None = 0.0, early: tuple[int, float] | None = None, chunk: int | None = None,
    attention: str = "sdpa", identical: bool = False,
) -> Iterator[list[tuple[int, int, int]]]:  # fmt: skip
    """Let the tower of a family reuse; what is counted, call by call."""
    adapter, calls = adapter_for(family_model(family, attention)), Calls()
    options = VisionOptions(threshold, *((early[1], early[0]) if early else (None, None)), reuse_identical=identical)
    with ExitStack() as stack:
        if options:
            stack.enter_context(FrameReuse(adapter, options, calls).reusing())
        stack.enter_context(adapter.vision_in_chunks(chunk and chunk * CELLS))
        yield calls.seen


@torch.no_grad()
def features(family: str, videos: Tensor, attention: str = "sdpa") -> Tensor:
    made = family_model(family, attention).model.get_video_features(videos).pooler_output
    return torch.cat(made) if isinstance(made, (tuple, list)) else made  # older releases: one for each video


@torch.no_grad()
def images(family: str) -> Sequence[Tensor]:
    inputs = family_inputs(family, "batch")
    names = [name for name in inputs if name.startswith("pixel_values") and name != "pixel_values_videos"]
    given = {name: inputs[name] for name in (*names, "image_sizes") if name in inputs}
    return list(family_model(family).model.get_image_features(**given).pooler_output)


@contextmanager
def outputs(family: str) -> Iterator[list[list[Tensor]]]:
    """What hooks on the layers see, layer by layer: [T, P, C] of each call."""
    layers = tower_of(family).layers
    seen: list[list[Tensor]] = [[] for _ in layers]
    handles = [
        layer.register_forward_hook(lambda _m, _a, out, own=own: own.append(out[0] if isinstance(out, tuple) else out))
        for layer, own in zip(layers, seen, strict=True)
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def drawn(moves: Tensor, seed: int = 0) -> Tensor:
    """Draw a video [T, 3, H, W] whose patches are new where ``moves`` [T, L] and else stay as they are."""
    numbers = torch.Generator().manual_seed(seed)
    moves = moves.clone()
    moves[0] = True
    frame, out = torch.zeros(3, SIDE, PATCH, SIDE, PATCH), []
    for now in moves.view(-1, 1, SIDE, 1, SIDE, 1):
        frame = torch.where(now, torch.randn(frame.shape, generator=numbers), frame)
        out.append(frame.reshape(3, SIDE * PATCH, SIDE * PATCH))
    return torch.stack(out)


def some(frames: int, share: float, seed: int = 0) -> Tensor:
    """Draw which patches move, [T, L] bool; all of the first frame do, none of the third."""
    moves = torch.rand(frames, CELLS, generator=torch.Generator().manual_seed(seed)) < share
    moves[0] = True
    moves[2:3] = False
    return moves


@torch.no_grad()
def canvas_loop(family: str, frames: Tensor, encoded: Tensor, early: tuple[int, float] | None = None) -> list[Tensor]:
    """One frame after the other: each place has the keys and values, and the states, of when it was last encoded.

    Returns:
        [T, P, C] of each layer.
    """
    tower = tower_of(family)
    named = dict(tower.module.named_modules())
    embed = next(module for name, module in named.items() if name.endswith("embeddings"))
    first = next((module for name, module in named.items() if name.endswith("pre_layrnorm")), nn.Identity())
    led = int(tower.has_cls)
    states, keys, values = ({} for _ in range(3))  # by layer: [P, C]
    out: list[list[Tensor]] = [[] for _ in tower.layers]
    last = torch.zeros(())
    for t, frame in enumerate(frames):
        x = first(embed(frame[None]))[0]
        runs = _with_cls(encoded[t], led)
        for number, layer in enumerate(tower.layers):
            attention: Any = layer.self_attn
            if number not in states:
                states[number], keys[number], values[number] = (torch.zeros_like(x) for _ in range(3))
            for place in runs.nonzero()[:, 0].tolist():  # all of them before any looks
                y = layer.layer_norm1(x[place])
                keys[number][place], values[number][place] = attention.k_proj(y), attention.v_proj(y)
            made = x.clone()
            for place in runs.nonzero()[:, 0].tolist():
                query = attention.q_proj(layer.layer_norm1(x[place])).unflatten(-1, (attention.num_heads, -1))
                key, value = (each[number].unflatten(-1, (attention.num_heads, -1)) for each in (keys, values))
                weights = (torch.einsum("hd,phd->hp", query, key) * attention.scale).softmax(-1)
                y = x[place] + attention.out_proj(torch.einsum("hp,phd->hd", weights, value).flatten())
                made[place] = states[number][place] = y + layer.mlp(layer.layer_norm2(y))
            x = made
            out[number].append(states[number].clone())
            if early is not None and number == early[0]:
                own = F.normalize(states[number][led:], dim=-1)
                goes = runs[led:].clone() if t == 0 else runs[led:] & ((own * last).sum(-1) <= early[1])
                last = own if t == 0 else torch.where(goes[:, None], own, last)
                runs = _with_cls(goes, led)
    return [torch.stack(each) for each in out]


def _with_cls(patches: Tensor, led: int) -> Tensor:
    return torch.cat([patches.any()[None], patches]) if led else patches
