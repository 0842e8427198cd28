"""Looking into the vision tower: what some of its blocks make of each visual token, and which prompt row it belongs to.

The tower's features go into embeddings and lose their name there. What its blocks made travels beside them: from the
tower's own forward, through chunks and memory (`vision`), to the prompt whose features were asked for.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from prunevid_qwen.adapters import Adapter
from prunevid_qwen.errors import ConfigError, UnsupportedError
from prunevid_qwen.reducer import VisionTaps
from prunevid_qwen.tokens import TokenLayout
from prunevid_qwen.vision import replaced_forward, taps_of, with_taps

_KINDS = ("image", "video")


@contextmanager
def tapped_vision(adapter: Adapter, taps: VisionTaps) -> Iterator[None]:
    """Let every output of the tower carry what the named blocks made, [N, L, C] in raster order.

    Args:
        adapter: of the model.
        taps: which blocks.

    Raises:
        ConfigError: the tower has no such block, or blocks of another width.
    """
    tower: Any = adapter.parts.vision
    blocks, width = adapter.vision_blocks, adapter.vision_width
    if width != taps.width or any(not 0 <= block < len(blocks) for block in taps.blocks):
        raise ConfigError(
            f"the selector looks into blocks {list(taps.blocks)} of {taps.width} channels, this model's vision encoder "
            f"has {len(blocks)} of {width}: it was made for another model"
        )
    seen: dict[int, Tensor] = {}
    stock = tower.forward

    def forward(hidden_states: Tensor, grid_thw: Tensor, **kwargs: Any) -> Any:
        output = stock(hidden_states, grid_thw=grid_thw, **kwargs)
        if not seen:  # answered from memory, with the taps of when it was encoded or without any
            return output
        made = torch.stack([adapter.raster(seen[block], grid_thw) for block in taps.blocks], dim=1)
        seen.clear()
        return with_taps(output, made)

    with ExitStack() as stack:
        for number in dict.fromkeys(taps.blocks):
            handle = blocks[number].register_forward_hook(_note(seen, number))
            stack.callback(handle.remove)
        stack.enter_context(replaced_forward(tower, forward))
        yield


def _note(seen: dict[int, Tensor], number: int) -> Any:
    def hook(_module: nn.Module, _args: Any, out: Any) -> None:
        seen[number] = out[0] if isinstance(out, tuple) else out

    return hook


class Shown:
    """What the next prompt shows: taps of its images and videos, in order, as the model asks for their features."""

    def __init__(self) -> None:
        self._items: dict[str, list[Tensor]] = {kind: [] for kind in _KINDS}

    @contextmanager
    def watching(self, root: Any, tower: nn.Module) -> Iterator[None]:
        """Note the taps of features that ``root`` asks ``tower`` for, inside the block.

        Features that are encoded ahead by others pass unnoted until the model asks for them.
        """
        asked: list[str] = []
        merge = int(tower.spatial_merge_size) ** 2  # type: ignore[arg-type]

        def after(_module: nn.Module, args: Any, kwargs: dict[str, Any], out: Any) -> None:
            if asked and taps_of(out) is not None:
                grid = kwargs["grid_thw"] if "grid_thw" in kwargs else args[1]
                sizes = [int(t) * int(h) * int(w) // merge for t, h, w in grid.tolist()]
                self._items[asked[-1]] += taps_of(out).split(sizes)

        with ExitStack() as stack:
            stack.callback(tower.register_forward_hook(after, with_kwargs=True).remove)
            for kind in _KINDS:
                stack.enter_context(_asking(root, kind, asked))
            yield

    def clear(self) -> None:
        """Forget what was noted."""
        self._items = {kind: [] for kind in _KINDS}

    def take(self, layouts: Sequence[TokenLayout | None]) -> list[Tensor | None]:
        """Hand out the taps of each row of a prompt, [N, L, C], and forget them.

        Args:
            layouts: of the rows, before any reduction; None for a text. Rows may be repetitions of fewer prompts, each
                of them that often in a row, as under beams.

        Raises:
            UnsupportedError: what was noted is not what the rows show.
        """
        items, self._items = self._items, {kind: [] for kind in _KINDS}
        rows = [[] if layout is None else list(layout.blocks) for layout in layouts]
        wanted = {kind: sum(block.kind == kind for row in rows for block in row) for kind in _KINDS}
        repeats = {wanted[kind] // len(items[kind]) for kind in _KINDS if items[kind]} or {0}
        times = next(iter(repeats))
        if len(repeats) > 1 or not times or any(wanted[k] != times * len(items[k]) for k in _KINDS):
            raise UnsupportedError(
                f"the prompt shows {wanted['image']} images and {wanted['video']} videos, the vision encoder was seen "
                f"to encode {len(items['image'])} and {len(items['video'])}: features that were made outside `pruned` "
                "bring no taps. Pass pixels"
            )
        out: list[Tensor | None] = []
        for number, row in enumerate(rows):
            if number % times:
                out.append(out[-1])
                continue
            own = [items[block.kind].pop(0) for block in row]
            for block, taps in zip(row, own, strict=True):
                if len(taps) != block.stop - block.start:
                    raise UnsupportedError(
                        f"an image or video of {len(taps)} tokens was encoded where the prompt has grid {block.grid}"
                    )
            out.append(torch.cat(own) if own else None)
        return out


@contextmanager
def _asking(root: Any, kind: str, asked: list[str]) -> Iterator[None]:
    name = f"get_{kind}_features"
    stock, own = getattr(root, name), vars(root).get(name)

    @functools.wraps(stock)  # since 5.18 `generate` asks for the signature
    def get_features(*args: Any, **kwargs: Any) -> Any:
        asked.append(kind)
        try:
            return stock(*args, **kwargs)
        finally:
            asked.pop()

    setattr(root, name, get_features)
    try:
        yield
    finally:
        delattr(root, name)
        if own is not None:  # somebody else's replacement on this very model
            setattr(root, name, own)
