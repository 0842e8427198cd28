"""A CLIP or SigLIP tower that encodes of each frame what changed: the same layers, fewer rows (see `plan`).

A unit is one patch of one frame. The layers are the model's own, and each still returns whole frames: the rows that ran
and copies of those that did not. So the library's hidden states, pooling after the tower and hooks on a layer see
frames as ever. Hooks on a projection of queries and keys do, too.

The CLS token looks at the whole frame. It runs in each frame of which a patch runs, and is a copy where none does.
The patch embedding runs for all patches: it is a 500th of the tower.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from prunevid_qwen.adapters import Adapter
from prunevid_qwen.adapters.attachments import replaced
from prunevid_qwen.adapters.frame_tower import OUT, PROJECTIONS, frames_of
from prunevid_qwen.adapters.seams import checkpointed, first_argument, missing_seam, require_arguments
from prunevid_qwen.adapters.vision import with_source
from prunevid_qwen.errors import ConfigError, UnsupportedError
from prunevid_qwen.vision.carried import Count
from prunevid_qwen.vision.frame_call import CarriedFrames, FrameCall, ShownVideos
from prunevid_qwen.vision.frame_plan import equal_frames, plan_frames, still_going
from prunevid_qwen.vision.frame_rows import FrameRows
from prunevid_qwen.vision.options import VisionOptions
from prunevid_qwen.vision.plan import PatchForm


class FrameReuse:
    """Lets patches of frames be copies, in the contexts of `reusing` and `planning`. Threads may share it.

    Args:
        adapter: of the model.
        options: `VisionOptions.reuses`. ``reuse_identical`` is taken care of here, too: a frame with the pixels of the
            one before is a copy.
        count: is told how many patches of videos were encoded.

    Raises:
        UnsupportedError: the model is shown no videos.
        ConfigError: the tower has no such block.
    """

    def __init__(self, adapter: Adapter, options: VisionOptions, count: Count | None = None) -> None:
        tower = adapter.frame_tower()
        if tower is None:
            shown = "video" in adapter.parts.towers
            why = (
                "are not built for its vision encoder" if shown else "compare frames of videos, but to it all is images"
            )
            raise UnsupportedError(
                f"this model is a {adapter.family}: reuse_threshold and early_tau {why}. Leave them out"
            )
        blocks, early = len(tower.layers), options.early_index(len(tower.layers))
        if early is not None and early >= blocks:
            raise ConfigError(
                f"early_block={options.early_block} is no block of this vision encoder, which has {blocks}: give 0 to "
                f"{blocks - 1}, or a share in (0, 1)"
            )
        self.adapter, self.tower, self.options, self._early = adapter, tower, options, early
        self.count = Count() if count is None else count
        self._form = PatchForm(tower.patch, 1, tower.deviations)
        self._here = ShownVideos()

    # ---- contexts

    @contextmanager
    def reusing(self) -> Iterator[None]:
        """Encode of each frame what changed, inside the block; it goes inside whatever cuts a call into chunks."""
        root, name = self.adapter.parts.root, "get_video_features"
        if not hasattr(root, name):
            raise missing_seam("the model", name)
        with ExitStack() as stack:
            stack.enter_context(replaced(root, name, self._asked(name, getattr(root, name))))
            for tower in dict.fromkeys(self.adapter.parts.towers.values()):
                stack.enter_context(replaced(tower, "forward", self._encode(tower, tower.forward)))
            for number, layer in enumerate(self.tower.layers):
                attention = self.tower.attention(layer)
                stack.enter_context(replaced(layer, "forward", self._layer(number, layer.forward)))
                stack.enter_context(replaced(attention, "forward", self._attend(attention, attention.forward)))
                for part in PROJECTIONS:
                    module = attention.get_submodule(part)
                    stack.enter_context(replaced(module, "forward", self._project(number, part, module.forward)))
            yield

    @contextmanager
    def planning(self) -> Iterator[None]:
        """Do nothing: chunks of frames are planned one by one, and carry what the next one compares with."""
        yield

    # ---- for what others ask

    def tapped(self, _block: int, _kind: str, made: Tensor) -> Tensor:
        """Return what a block of the tower made: it is of whole frames already."""
        return made

    # ---- calls of the tower

    def _asked(self, name: str, stock: Callable[..., Any]) -> Callable[..., Any]:
        """Note how many frames each video has while its features are made."""
        signature = inspect.signature(stock)

        def get_video_features(*args: Any, **kwargs: Any) -> Any:
            here, given = self._here, signature.bind(*args, **kwargs).arguments
            pixels = "pixel_values" if "pixel_values" in given else "pixel_values_videos"  # older releases, newer ones
            require_arguments(given, name, pixels)
            here.videos, here.at, here.carried = frames_of(given[pixels]), 0, None
            try:
                out = stock(*args, **kwargs)
                here.check_all()
            finally:
                here.videos, here.carried = None, None
            return out

        return get_video_features

    def _encode(self, tower: nn.Module, stock: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            here = self._here
            pixels = first_argument(args, kwargs, "the vision encoder's call", "pixel_values")
            if here.videos is None or tower is not self.tower.module:  # images
                return self._noted(stock(*args, **kwargs), *self._all(len(pixels)))
            self._check(pixels, kwargs)
            begins, goes_on = here.edges(len(pixels))
            before, after = None if begins[0] else here.carried, CarriedFrames() if goes_on else None
            patches = self._planned(pixels, begins, before, after)
            if before is None and after is None and self._early is None and bool(patches.all()):
                self.count.add(patches.numel(), patches.numel(), patches.numel())
                return self._noted(stock(*args, **kwargs), *self._all(len(pixels)))
            entered, rows = int(patches.sum()), self._rows(patches, before)
            here.call = call = FrameCall(
                rows, begins, before, after, patches, torch.zeros(rows.encoded.shape, device="cpu")
            )
            try:
                out = stock(*args, **kwargs)
            finally:
                here.call = None
            here.carried = after
            self.count.add(patches.numel(), entered, int(call.patches.sum()))
            return self._noted(out, call.rows.encoded.float(), call.layers)

        return forward

    def _all(self, frames: int) -> tuple[Tensor, Tensor]:
        """Return what is noted of frames or images of which all runs: two tensors [T, P]."""
        every = torch.ones(frames, self.tower.patches + self.tower.has_cls, device="cpu")
        return every, every * len(self.tower.layers)

    def _noted(self, out: Any, encoded: Tensor, layers: Tensor) -> Any:
        """Let an output of the tower carry, [N, 2], the share of what is encoded and how many layers ran on it."""
        return with_source(out, self.adapter.raster(torch.stack([encoded, layers], dim=-1), None))

    def _check(self, pixels: Tensor, kwargs: Mapping[str, Any]) -> None:
        """Refuse a call whose frames, or what it asks for, are not known here.

        Raises:
            UnsupportedError: frames of another size, attention weights, or gradient checkpointing.
        """
        height, width = pixels.shape[-2:]
        if {height // self.tower.patch, width // self.tower.patch} != {self.tower.side}:
            side = self.tower.side * self.tower.patch
            raise UnsupportedError(
                f"reuse_threshold and early_tau know frames of {side} x {side} pixels, for which the vision encoder "
                f"was made, got {height} x {width}: leave these options out"
            )
        if kwargs.get("output_attentions", getattr(self.tower.module.config, "output_attentions", False)):
            raise UnsupportedError(
                "a call of the vision encoder asks for output_attentions, which is of all places, and reuse_threshold "
                "and early_tau encode some of them: leave it out, or turn these options off"
            )
        if torch.is_grad_enabled() and checkpointed(self.tower.layers):
            raise UnsupportedError(
                "gradient checkpointing runs the vision encoder's layers anew, and reuse_threshold and early_tau "
                "cannot: turn these options off, or call model.gradient_checkpointing_disable()"
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
            call.layers += call.rows.encoded
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

    def _drop_alike(self, call: FrameCall, states: Tensor) -> None:
        """Let rows go no further after the early layer, by the states [T, P, C] that it returned."""
        assert self.options.early_tau is not None
        own, last = states[:, int(self.tower.has_cls) :], call.before.early if call.before else None
        kept, last = still_going(own, call.patches, call.begins, self.options.early_tau, last)
        call.patches = kept.cpu()
        call.rows = self._rows(call.patches, call.before)
        if call.after is not None:
            call.after.early = last
