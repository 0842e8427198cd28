"""A CLIP or SigLIP tower that encodes of each frame what changed: the same layers, fewer rows (see `plan`).

A unit is one patch of one frame. The layers are the model's own, and each still returns whole frames: the rows that ran
and copies of those that did not. So the library's hidden states, pooling after the tower and hooks on a layer see
frames as ever. Hooks on a projection of queries and keys do, too.

The CLS token looks at the whole frame. It runs in each frame of which a patch runs, and is a copy where none does.
The patch embedding runs for all patches: it is a 500th of the tower.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from prunevid_qwen.adapters import Adapter
from prunevid_qwen.adapters.attachments import replaced
from prunevid_qwen.adapters.frame_tower import OUT, PROJECTIONS, FrameTower, frames_of
from prunevid_qwen.adapters.seams import checkpointed, first_argument, missing_seam, require_arguments
from prunevid_qwen.errors import ConfigError, UnsupportedError
from prunevid_qwen.vision.frame_plan import equal_frames, plan_frames, still_going
from prunevid_qwen.vision.frame_rows import FrameRows
from prunevid_qwen.vision.options import VisionOptions
from prunevid_qwen.vision.plan import PatchForm

Count = Callable[[int, Sequence[int]], None]
"""Takes the patches of the frames of a call of the tower, and how many of them ran through each layer: [layers]."""


@dataclass
class CarriedFrames:
    """What the next chunk of a video needs of the last encoded state of each place of a frame.

    Args:
        pixels: [L, C] of patches, as they were compared, or None where pixels leave nothing out.
        states: of each layer and module [P, C], CLS among them.
        early: [L, C] directions of the states after the early block that went on there, or None.
    """

    pixels: Tensor | None = None
    states: dict[tuple[int, str], Tensor] = field(default_factory=dict)
    early: Tensor | None = None


@dataclass
class _Call:
    """One call of the tower on frames of videos."""

    rows: FrameRows
    begins: list[bool]  # of each frame: a video begins
    before: CarriedFrames | None
    after: CarriedFrames | None  # None where the last frame ends its video
    patches: Tensor  # [T, L] bool, on the CPU: those that run
    ran: list[int] = field(default_factory=list)  # of each layer so far, patches

    def filled(self, number: int, name: str, rows: Tensor) -> Tensor:
        """Make whole frames of what a module of a layer made of rows."""
        key = number, name
        full = self.rows.filled(rows, None if self.before is None else self.before.states[key])
        if self.after is not None:
            self.after.states[key] = full[-1].clone()
        return full


class _Shown(threading.local):
    """The videos whose features are asked for, and the call of the tower under way; each thread has its own."""

    def __init__(self) -> None:
        self.videos: list[int] | None = None  # frames of each
        self.at = 0  # frames that the tower was given
        self.carried: CarriedFrames | None = None
        self.call: _Call | None = None

    def edges(self, frames: int) -> tuple[list[bool], bool]:
        """Say of each of the next frames whether a video begins with it, and whether the last one's goes on."""
        assert self.videos is not None
        starts, done = set[int](), 0
        for each in self.videos:
            starts.add(done)
            done += each
        if self.at + frames > done:
            raise missing_seam("the vision encoder's call for videos", f"{done} frames", [self.at + frames])
        begins = [self.at + t in starts for t in range(frames)]
        self.at += frames
        return begins, self.at not in starts and self.at < done


class ReusedFrames:
    """Stands in for the forwards of one tower and of its layers.

    Args:
        tower: of the family's videos.
        options: what is asked.
        count: is told of each call on videos.
    """

    def __init__(self, tower: FrameTower, options: VisionOptions, count: Count) -> None:
        self.tower, self.options, self._count = tower, options, count
        self._early = options.early_index(len(tower.layers))
        self._form = PatchForm(tower.patch, 1, tower.deviations)
        self._here = _Shown()

    @contextmanager
    def standing_in(self, root: Any) -> Iterator[None]:
        """Let the tower reuse what stands still, inside the block.

        Args:
            root: is asked for the features of videos.
        """
        with ExitStack() as stack:
            name = "get_video_features"
            if not hasattr(root, name):
                raise missing_seam("the model", name)
            stack.enter_context(replaced(root, name, self._asked(name, getattr(root, name))))
            stack.enter_context(replaced(self.tower.module, "forward", self._encode(self.tower.module.forward)))
            for number, layer in enumerate(self.tower.layers):
                attention = self.tower.attention(layer)
                stack.enter_context(replaced(layer, "forward", self._layer(number, layer.forward)))
                stack.enter_context(replaced(attention, "forward", self._attend(attention, attention.forward)))
                for part in PROJECTIONS:
                    module = attention.get_submodule(part)
                    stack.enter_context(replaced(module, "forward", self._project(number, part, module.forward)))
            yield

    def _asked(self, name: str, stock: Callable[..., Any]) -> Callable[..., Any]:
        """Note how many frames each video has while its features are made."""
        signature = inspect.signature(stock)

        def get_video_features(*args: Any, **kwargs: Any) -> Any:
            here, given = self._here, signature.bind(*args, **kwargs).arguments
            require_arguments(given, name, "pixel_values_videos")
            here.videos, here.at, here.carried = frames_of(given["pixel_values_videos"]), 0, None
            try:
                return stock(*args, **kwargs)
            finally:
                here.videos, here.carried = None, None

        return get_video_features

    def _encode(self, stock: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            here = self._here
            if here.videos is None:  # images
                return stock(*args, **kwargs)
            if checkpointed(self.tower.layers):
                raise UnsupportedError(
                    "gradient checkpointing runs the vision encoder's layers anew, which reuse of what stands still "
                    "does not support: leave reuse_threshold and early_tau out, or call "
                    "model.gradient_checkpointing_disable()"
                )
            pixels = first_argument(args, kwargs, "the vision encoder's call", "pixel_values")
            self._check_size(pixels)
            if kwargs.get("output_attentions", getattr(self.tower.module.config, "output_attentions", False)):
                # the weights of all patches are wanted: the encoder does all of it, and the count says so
                self._count(
                    len(pixels) * self.tower.patches, [len(pixels) * self.tower.patches] * len(self.tower.layers)
                )
                return stock(*args, **kwargs)
            begins, goes_on = here.edges(len(pixels))
            before = None if begins[0] else here.carried
            after = CarriedFrames() if goes_on else None
            patches = self._planned(pixels, begins, before, after)
            if before is None and after is None and self._early is None and bool(patches.all()):
                self._count(patches.numel(), [patches.numel()] * len(self.tower.layers))
                return stock(*args, **kwargs)
            here.call = call = _Call(self._rows(patches, before), begins, before, after, patches)
            try:
                out = stock(*args, **kwargs)
            finally:
                here.call = None
            here.carried = after
            self._count(patches.numel(), call.ran)
            return out

        return forward

    def _check_size(self, pixels: Tensor) -> None:
        height, width = pixels.shape[-2:]
        if {height // self.tower.patch, width // self.tower.patch} != {self.tower.side}:
            side = self.tower.side * self.tower.patch
            raise UnsupportedError(
                f"reuse of what stands still knows frames of {side} x {side} pixels, which the vision encoder was "
                f"made for, got {height} x {width}: leave reuse_threshold and early_tau out"
            )

    def _planned(self, pixels: Tensor, begins: Sequence[bool], before: CarriedFrames | None,
                 after: CarriedFrames | None) -> Tensor:  # fmt: skip
        """Say which patches of frames are encoded, [T, L] bool on the CPU, by their pixels."""
        if self.options.reuse_threshold is None and not self.options.reuse_identical:
            return torch.ones(len(pixels), self.tower.patches, dtype=torch.bool, device="cpu")
        patches, last = self.tower.patches_of(pixels), before.pixels if before else None
        if self.options.reuse_threshold is None:
            encoded, last = equal_frames(patches, begins, last)
        else:
            encoded, last = plan_frames(patches, begins, self.options.reuse_threshold, last, self._form)
        if after is not None:
            after.pixels = last
        return encoded.cpu()

    def _rows(self, patches: Tensor, before: CarriedFrames | None) -> FrameRows:
        led = [patches.any(1, keepdim=True)] if self.tower.has_cls else []
        return FrameRows(torch.cat([*led, patches], dim=1), before is not None)

    def _layer(self, number: int, stock: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            call = self._here.call
            if call is None:
                return stock(*args, **kwargs)
            states = first_argument(args, kwargs, "a layer of the vision encoder", "hidden_states")
            others = {name: value for name, value in kwargs.items() if name != "hidden_states"}
            made = stock(call.rows.taken(states), *args[1:], **others)
            rows = made[0] if isinstance(made, tuple) else made
            full = call.filled(number, "out", rows)
            call.ran.append(int(call.patches.sum()))
            if number == self._early:
                self._drop_alike(call, full)
            return (full, *made[1:]) if isinstance(made, tuple) else full

        return forward

    def _project(self, number: int, part: str, stock: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            call, made = self._here.call, stock(*args, **kwargs)
            return made if call is None else call.filled(number, part, made)

        return forward

    def _attend(self, attention: Any, stock: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            call = self._here.call
            if call is None:
                return stock(*args, **kwargs)
            states = first_argument(args, kwargs, "the attention of the vision encoder", "hidden_states")
            dropout = float(attention.dropout) if attention.training else 0.0
            whole = [attention.get_submodule(part)(states) for part in PROJECTIONS]  # each [T, P, C]
            made = call.rows.attended(whole, attention.num_heads, float(attention.scale), dropout)
            return attention.get_submodule(OUT)(made), None

        return forward

    def _drop_alike(self, call: _Call, states: Tensor) -> None:
        """Let rows go no further after the early layer, by the states [T, P, C] that it returned."""
        assert self.options.early_tau is not None
        own, last = states[:, int(self.tower.has_cls) :], call.before.early if call.before else None
        kept, last = still_going(own, call.patches, call.begins, self.options.early_tau, last)
        call.patches = kept.cpu()
        call.rows = self._rows(call.patches, call.before)
        if call.after is not None:
            call.after.early = last


@contextmanager
def reusing_frames(adapter: Adapter, options: VisionOptions, count: Count) -> Iterator[None]:
    """Let the tower of a family's videos encode of each frame what changed, inside the block.

    It goes inside `vision_in_chunks`, which may cut a video. Options without reuse leave all as it is.

    Args:
        adapter: of the model; its modules are restored on leaving.
        options: ``reuse_identical`` is taken care of here, too: a frame with the pixels of the one before is a copy.
        count: is told of each call of the tower on videos.

    Raises:
        ConfigError: the model is shown no videos, or its tower has no such early block.
    """
    if not options.reuses:
        yield
        return
    tower = adapter.frame_tower()
    if tower is None:
        raise ConfigError(
            f"reuse_threshold and early_tau compare the frames of a video, but to a {adapter.family} all is images: "
            "leave them out"
        )
    blocks, early = len(tower.layers), options.early_index(len(tower.layers))
    if early is not None and early >= blocks:
        raise ConfigError(
            f"early_block is {options.early_block}, but the vision encoder of this {adapter.family} has blocks 0 to "
            f"{blocks - 1}: choose one of them, or a share of its depth in (0, 1)"
        )
    with ReusedFrames(tower, options, count).standing_in(adapter.parts.root):
        yield
