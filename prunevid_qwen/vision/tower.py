"""Reuse in a tower of Qwen's form: contexts that stand around its calls, and stand-ins for modules inside it.

`Reuse.reusing` stands below whatever cuts a call into chunks, and `Reuse.planning` above it: a video is planned whole,
by its pixels before the model casts them, and each chunk takes its part of the plan and what it may copy of the chunk
before. Without `planning`, each call of the tower is planned by itself.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from prunevid_qwen.adapters import Adapter
from prunevid_qwen.adapters.attachments import replaced
from prunevid_qwen.adapters.seams import checkpointed, missing_seam, require_arguments
from prunevid_qwen.adapters.tower_form import TowerForm
from prunevid_qwen.adapters.vision import is_placeholder, joined, replaced_forward, with_source
from prunevid_qwen.errors import ConfigError, UnsupportedError
from prunevid_qwen.vision.carried import Carried, Count, PixelPlanner, itself
from prunevid_qwen.vision.options import VisionOptions
from prunevid_qwen.vision.passing import Pass
from prunevid_qwen.vision.plan import PatchForm

ShownPart = tuple[Carried, tuple[int, int, int], Tensor, bool]
"""A video, the grid of the positions that come (in units), their plan, and whether more may follow."""


class _Here(threading.local):
    """What is under way in a thread: the videos whose calls are to come, and the pass."""

    def __init__(self) -> None:
        self.queue: list[Carried] | None = None
        self.now: Pass | None = None


class Reuse:
    """Lets places of videos be copies, in the contexts of `reusing` and `planning`. Threads may share it.

    Args:
        adapter: of the model.
        options: `VisionOptions.reuses`.
        count: is told how many units were encoded.

    Raises:
        UnsupportedError: the family's tower is not of a form in which that is built.
        ConfigError: the tower has no such block.
    """

    def __init__(self, adapter: Adapter, options: VisionOptions, count: Count | None = None) -> None:
        form: TowerForm | None = getattr(adapter, "tower_form", None)
        if form is None:
            raise UnsupportedError(
                f"reuse_threshold and early_tau are not built for the vision encoder of {adapter.family}: leave them "
                "out"
            )
        self.adapter, self.form, self.options = adapter, form, options
        self.count = Count() if count is None else count
        blocks, early = len(form.blocks), options.early_index(len(form.blocks))
        if early is not None and early >= blocks:
            raise ConfigError(
                f"early_block={options.early_block} is no block of this vision encoder, which has {blocks}: give 0 to "
                f"{blocks - 1}, or a share in (0, 1)"
            )
        self._early = None if early is None or options.early_tau is None else (early, float(options.early_tau))
        self._here = _Here()

    # ---- contexts

    @contextmanager
    def reusing(self) -> Iterator[None]:
        """Encode what is planned, inside the block; each call of the tower is for some positions of its videos."""
        form, stock = self.form, self.form.tower.forward

        def encode(hidden_states: Tensor, grid_thw: Tensor, **kwargs: Any) -> Any:
            return self._encode(stock, hidden_states, grid_thw, kwargs)

        with ExitStack() as stack:
            stack.enter_context(replaced(form.embed, "forward", self._embed(form.embed.forward)))
            for number, block in enumerate(form.blocks):
                stack.enter_context(replaced(block, "forward", self._block(number, block.forward)))
                stack.enter_context(replaced(block.attn, "forward", self._attention(number, block.attn)))
            for number, merger in enumerate(form.mergers):
                stack.enter_context(replaced(merger, "forward", self._merger(number, merger.forward)))
            stack.enter_context(replaced_forward(form.tower, encode))
            yield

    @contextmanager
    def planning(self) -> Iterator[None]:
        """Plan each video whole, before it is cast or cut into chunks, inside the block.

        A call of the tower takes the argument ``reuse`` besides: the `Carried` of the one video that it shows, with the
        plan of its positions.
        """
        root, stock = self.adapter.parts.root, self.form.tower.forward
        if not hasattr(root, "get_video_features"):
            raise missing_seam("the model", "get_video_features")

        def encode(hidden_states: Tensor, grid_thw: Tensor, reuse: Carried | None = None, **kwargs: Any) -> Any:
            if self._here.queue is not None or is_placeholder(hidden_states):
                return stock(hidden_states, grid_thw=grid_thw, **kwargs)
            queue = self.planned(hidden_states, grid_thw.tolist()) if reuse is None else [reuse]
            with self._under_way(queue):
                return stock(hidden_states, grid_thw=grid_thw, **kwargs)

        ask = root.get_video_features
        signature = inspect.signature(ask)

        def get_video_features(*args: Any, **kwargs: Any) -> Any:
            given = signature.bind(*args, **kwargs).arguments
            pixels, grids = given.get("pixel_values_videos"), given.get("video_grid_thw")
            if not isinstance(pixels, Tensor) or not isinstance(grids, Tensor) or is_placeholder(pixels):
                return ask(*args, **kwargs)
            with self._under_way(self.planned(pixels, grids.tolist())):
                return ask(*args, **kwargs)

        with replaced_forward(self.form.tower, encode), replaced(root, "get_video_features", get_video_features):
            yield

    @contextmanager
    def _under_way(self, queue: list[Carried]) -> Iterator[None]:
        outer, self._here.queue = self._here.queue, queue
        try:
            yield
        finally:
            self._here.queue = outer

    # ---- calls of the tower

    def planned(self, pixels: Tensor, grids: Sequence[Sequence[int]]) -> list[Carried]:
        """Plan videos and images that come whole: pixels [patches, C], normalised as the family's stock ones are."""
        side, frames = self.form.patch
        planner = PixelPlanner(self.options.reuse_threshold, PatchForm(side, frames, self.form.std), self.form.unit)
        out, at = [], 0
        for t, h, w in grids:
            own = pixels[at : at + t * h * w]
            at += t * h * w
            planner.begin()
            every = torch.ones(t, h * w // self.form.unit, dtype=torch.bool)
            out.append(Carried(every if t == 1 else planner.plan(own, t), image=t == 1))
        return out

    def _encode(self, stock: Callable[..., Any], pixels: Tensor, grid_thw: Tensor, kwargs: dict[str, Any]) -> Any:
        if is_placeholder(pixels):
            return stock(pixels, grid_thw=grid_thw, **kwargs)
        grids = grid_thw.tolist()
        queue = self.planned(pixels, grids) if self._here.queue is None else self._here.queue
        parts = list[ShownPart]()
        for t, h, w in grids:
            video = queue[0]
            encoded, more = video.take(t)
            if video.done:
                del queue[0]
            parts.append((video, (t, *self._units(h, w)), encoded, more))
        if all(map(self._is_stock, parts)):
            return with_source(stock(pixels, grid_thw=grid_thw, **kwargs), self._noted(parts))
        self._check(kwargs)
        outputs, at, row = [], 0, 0
        while row < len(parts):
            upto = row + 1
            while upto < len(parts) and self._is_stock(parts[row]) and self._is_stock(parts[upto]):
                upto += 1
            patches = sum(t * h * w for t, h, w in grids[row:upto])
            own, part = pixels[at : at + patches], grid_thw[row:upto]
            if self._is_stock(parts[row]):
                out = with_source(stock(own, grid_thw=part, **kwargs), self._noted(parts[row:upto]))
            else:
                out = self._pass(stock, own, part, parts[row], kwargs)
            outputs.append(out)
            at, row = at + patches, upto
        return outputs[0] if len(outputs) == 1 else joined(outputs)

    def _units(self, h: int, w: int) -> tuple[int, int]:
        side = round(self.form.unit**0.5)
        return h // side, w // side

    def _is_stock(self, part: ShownPart) -> bool:
        """Whether the stock tower makes the same of it, and nothing has to be noted."""
        video, _, encoded, more = part
        return video.image or (bool(encoded.all()) and not more and self._early is None)

    def _noted(self, parts: Sequence[ShownPart]) -> Tensor:
        sources = []
        for video, (t, h, w), _, _ in parts:
            sources.append(itself(t, h * w, video.positions, len(self.form.blocks)))
            video.positions += t
            if not video.image:
                self.count.add(t * h * w, t * h * w, t * h * w)
        return torch.cat(sources)

    def _pass(
        self, stock: Callable[..., Any], pixels: Tensor, grid: Tensor, part: ShownPart, kwargs: dict[str, Any]
    ) -> Any:
        video, size, encoded, more = part
        now = Pass(self.form, video, size, encoded, more, self._early)
        self._here.now = now
        try:
            out = stock(pixels, grid_thw=grid, **kwargs)
        finally:
            self._here.now = None
        source = now.source()
        now.close(video)
        video.positions += size[0]
        self.count.add(len(source), int(now.entered.sum()), len(now.rows.number))
        return with_source(out, source)

    def _check(self, kwargs: dict[str, Any]) -> None:
        """Refuse what would read or write each unit's row inside the tower.

        Raises:
            UnsupportedError: it is asked for.
        """
        odd = [
            name
            for name, value in kwargs.items()
            if isinstance(value, Tensor) or (name.startswith("output_") and value)
        ]
        if odd:
            raise UnsupportedError(
                f"a call of the vision encoder brings {', '.join(odd)}, which is of all places, and reuse_threshold "
                "and early_tau encode some of them: leave it out, or turn these options off"
            )
        if torch.is_grad_enabled() and checkpointed(self.form.blocks):
            raise UnsupportedError(
                "gradient checkpointing runs the vision encoder's blocks anew, and reuse_threshold and early_tau "
                "cannot: turn these options off, or call model.gradient_checkpointing_disable()"
            )

    # ---- modules inside it

    def tapped(self, block: int, kind: str, made: Tensor) -> Tensor:
        """Spread what a block of the tower made of its rows, [patches, ...], over the patches of all units."""
        now = self._here.now
        if now is None:
            return made
        unit = self.form.unit
        return now.spread((block, kind), made.view(len(made) // unit, unit, *made.shape[1:])).flatten(0, 1)

    def _embed(self, stock: Callable[..., Any]) -> Callable[..., Any]:
        def forward(pixels: Tensor) -> Any:
            return stock(pixels) if self._here.now is None else self._here.now.embed(stock, pixels)

        return forward

    def _block(self, number: int, stock: Callable[..., Any]) -> Callable[..., Any]:
        def forward(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
            now = self._here.now
            if now is None:
                return stock(hidden_states, *args, **kwargs)
            require_arguments(kwargs, "a vision block", "position_embeddings")
            hidden = hidden_states if number else now.enter(hidden_states)
            kwargs["position_embeddings"] = now.rope(kwargs["position_embeddings"])
            return now.leave(number, stock(hidden, *args, **kwargs))

        return forward

    def _attention(self, number: int, attn: Any) -> Callable[..., Any]:
        stock = attn.forward

        def forward(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
            now = self._here.now
            if now is None:
                return stock(hidden_states, *args, **kwargs)
            require_arguments(kwargs, "a vision block's attention", "position_embeddings")
            return now.attend(number, attn, stock, hidden_states, kwargs["position_embeddings"], kwargs)

        return forward

    def _merger(self, number: int, stock: Callable[..., Any]) -> Callable[..., Any]:
        def forward(states: Tensor) -> Any:
            return stock(states) if self._here.now is None else self._here.now.spread(number, stock(states))

        return forward


@contextmanager
def reusing(adapter: Adapter, options: VisionOptions, count: Count | None = None) -> Iterator[None]:
    """Let places of videos be copies inside the block; the tower is restored after it, also after an error.

    Without options that reuse, nothing is attached.

    Args:
        adapter: of the model.
        options: how much may be copied.
        count: is told how many units were encoded.

    Raises:
        UnsupportedError, ConfigError: as `Reuse`.
    """
    if not options.reuses:
        yield
        return
    reuse = Reuse(adapter, options, count)
    with reuse.reusing(), reuse.planning():
        yield
