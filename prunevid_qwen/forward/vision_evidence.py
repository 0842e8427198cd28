"""Looking into the vision tower: what its blocks make of each visual token, and which prompt row that belongs to.

The tower's features go into embeddings and lose their name there. What its blocks made travels beside them: from the
tower's own forward, through chunks and memory (`vision`), to the prompt whose features were asked for.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from prunevid_qwen.adapters import Adapter
from prunevid_qwen.adapters.attachments import hook, replaced
from prunevid_qwen.adapters.picture_grids import bearers
from prunevid_qwen.adapters.seams import missing_seam
from prunevid_qwen.adapters.vision import taps_of, with_taps
from prunevid_qwen.errors import ConfigError, UnsupportedError
from prunevid_qwen.needs import FEATURES, VisionQuery
from prunevid_qwen.tokens import Block, TokenLayout

_KINDS = ("image", "video")
Spread = Callable[[int, str, Tensor], Tensor]


@contextmanager
def watched_vision(adapter: Adapter, query: VisionQuery, spread: Spread | None = None) -> Iterator[None]:
    """Let every output of the towers carry what a query asks of its blocks, [N, L, C] in raster order.

    C holds the kinds of the query side by side, see `parted`; in the tower's dtype for its states alone, else fp32.

    Args:
        adapter: of the model.
        query: which blocks, and what of them.
        spread: makes of what a block and kind made of the patches that it ran on that of all patches; or None.

    Raises:
        ConfigError: the tower has no such block, blocks of another width, or nothing of that kind.
    """
    count, width = len(adapter.vision_blocks), adapter.vision_width
    blocks = [_index(block, adapter) for block in query.blocks]
    if query.width not in (None, width) or any(not -count <= block < count for block in blocks):
        of_width = "" if query.width is None else f" of {query.width} channels"
        raise ConfigError(
            f"the method reads blocks {list(query.blocks)}{of_width}, but this model's vision encoder has {count} "
            f"blocks of width {width}: use a method or a predictor that was made for this model"
        )
    blocks = [block % count for block in blocks]
    kinds = [adapter.salience if kind == "salience" else kind for kind in query.kinds]
    query = replace(query, blocks=tuple(blocks), what=tuple(dict.fromkeys(kinds)))
    here = _Seen()

    def note(block: int, kind: str, made: Tensor) -> None:
        here.made[block, kind] = made if spread is None else spread(block, kind, made)

    def seen_by(stock: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            grid, seen = adapter.grid_of_call(args, kwargs), here.made
            seen.clear()  # of a call that raised
            output = stock(*args, **kwargs)
            if not seen:  # answered from memory, with the taps of when it was encoded or without any
                return output
            parts = [torch.cat([adapter.raster(seen[block, kind], grid) for kind in kinds], dim=-1) for block in blocks]
            seen.clear()
            return with_taps(output, torch.stack(parts, dim=1))

        return forward

    with ExitStack() as stack:
        stack.enter_context(adapter.vision_query(query, note))
        for tower in dict.fromkeys(adapter.parts.towers.values()):
            stack.enter_context(replaced(tower, "forward", seen_by(tower.forward)))
        yield


def _index(block: int | float | str, adapter: Adapter) -> int:
    """Return the index of a block of a query, which may be negative or that of no block."""
    if block == FEATURES:
        return adapter.feature_block
    return int(block * len(adapter.vision_blocks)) if isinstance(block, float) else int(block)


def parted(taps: Tensor, query: VisionQuery, width: int) -> dict[str, Tensor]:
    """Take apart what the blocks were asked for.

    Args:
        taps: [N, L, C] as the tower's output carried it, for any tokens that are made of those.
        query: that was asked.
        width: of the tower's blocks.

    Returns:
        By kind: "states" [L, N, C], "received", "cls", "salience" and "pooled" [L, N], "keys" [L, N, d].
    """
    rest = taps.shape[-1] - sum({"states": width, "keys": 0}.get(kind, 1) for kind in query.kinds)
    sizes = [{"states": width, "keys": rest}.get(kind, 1) for kind in query.kinds]
    parts = dict(zip(query.kinds, taps.transpose(0, 1).split(sizes, dim=-1), strict=True))
    return {kind: part if kind in ("states", "keys") else part[..., 0] for kind, part in parts.items()}


class _Seen(threading.local):
    """What the blocks made in the call under way, by block and kind; each thread has a call of its own."""

    def __init__(self) -> None:
        self.made: dict[tuple[int, str], Tensor] = {}


def _of_block(block: Block, items: list[Tensor]) -> Tensor:
    """Take the taps of a block off the front of what is left: one item, or some, as a video's frames."""
    own: list[Tensor] = []
    while items and sum(map(len, own)) < block.stop - block.start:
        own.append(items.pop(0))
    if sum(map(len, own)) != block.stop - block.start:
        raise UnsupportedError(
            f"the vision encoder encoded images or videos of {[len(each) for each in own]} tokens, but the prompt's "
            f"{block.kind} has grid {block.grid}"
        )
    return torch.cat(own)


class VisionEvidence(threading.local):
    """What a prompt shows: taps of its images and videos, in order, as the model asks for their features.

    Features that are asked for ahead of the prompt carry their taps, so that those of a prompt that never came are not
    taken for another's. Each thread has prompts of its own.

    Args:
        read: takes an output of the tower, and returns what it carries for each token, [N, ...], or None.
        carried: attribute of features: who noted what they carry, and that.
    """

    def __init__(self, read: Callable[[Any], Any] = taps_of, carried: str = "_prunevid_taps") -> None:
        self._read, self._carried = read, carried
        self._items: dict[str, list[list[Tensor]]] = {kind: [] for kind in _KINDS}  # a list for each call
        self._asked: list[list[Tensor]] = []  # what was made for each call that is under way

    def __deepcopy__(self, _memo: dict[int, Any]) -> VisionEvidence:
        return self  # copied features were asked for in this context, too

    def __reduce__(self) -> Any:
        return object, ()  # features that were stored are of no context

    @contextmanager
    def watching(self, adapter: Adapter) -> Iterator[None]:
        """Note the taps of features that the model asks its tower for, inside the block.

        Features that are encoded ahead by others pass unnoted until the model asks for them.
        """
        parts = adapter.parts

        def after(_module: nn.Module, args: Any, kwargs: dict[str, Any], out: Any) -> None:
            if self._asked and self._read(out) is not None:
                self._asked[-1].extend(self._read(out).split(adapter.tokens_of_call(args, kwargs)))

        with ExitStack() as stack:
            for tower in dict.fromkeys(parts.towers.values()):
                hook(stack, tower.register_forward_hook, after, with_kwargs=True)
            for kind in parts.towers:
                stack.enter_context(self._asking(adapter, kind))
            yield

    def begin(self, ahead: Mapping[str, Any] | None) -> None:
        """Begin a prompt: only what comes with it, and what is asked for from now on, is of it.

        Args:
            ahead: features by kind that were asked for before.
        """
        self.clear()
        for kind, output in (ahead or {}).items():
            held = [getattr(each, self._carried) for each in bearers(output) if hasattr(each, self._carried)]
            owner, taps = held[0] if held else (None, [])
            if owner is self:
                self._items[kind].append(taps)

    def clear(self) -> None:
        """Forget what was noted."""
        self._items = {kind: [] for kind in _KINDS}

    def take(self, layouts: Sequence[TokenLayout | None], known: bool = True) -> list[Tensor | None]:
        """Hand out the taps of each row of a prompt, [N, L, C], and forget them; features carry them no longer.

        Args:
            layouts: of the rows, before any reduction; None for a text. Rows may be repetitions of fewer prompts, each
                of them that often in a row, as under beams.
            known: without it, None stands for each row where what was noted is not what the rows show.

        Raises:
            UnsupportedError: what was noted is not what the rows show.
        """
        items = {kind: [taps for made in calls for taps in made] for kind, calls in self._items.items()}
        for made in (made for calls in self._items.values() for made in calls):
            made.clear()
        self.clear()
        rows = [[] if layout is None else list(layout.blocks) for layout in layouts]
        wanted = {k: sum(each.stop - each.start for row in rows for each in row if each.kind == k) for k in _KINDS}
        there = {kind: sum(map(len, items[kind])) for kind in _KINDS}
        repeats = {wanted[kind] // there[kind] for kind in _KINDS if there[kind]} or {0}
        times = next(iter(repeats))
        if not times or any(wanted[k] != times * there[k] for k in _KINDS):
            if not known:
                return [None] * len(rows)
            raise UnsupportedError(
                f"the prompt has {wanted['image']} image and {wanted['video']} video tokens, but the vision encoder "
                f"encoded {there['image']} and {there['video']} in this block, and this method reads its blocks. "
                "Features made elsewhere lack them: pass pixels, or call prepare with the config that answers"
            )
        out: list[Tensor | None] = []
        for number, row in enumerate(rows):
            if number % times:
                out.append(out[-1])
                continue
            own = [_of_block(block, items[block.kind]) for block in row]
            out.append(torch.cat(own) if own else None)
        return out

    @contextmanager
    def _asking(self, adapter: Adapter, kind: str) -> Iterator[None]:
        root, name = adapter.parts.root, f"get_{kind}_features"
        if not hasattr(root, name):
            raise missing_seam("the model", name)
        stock = getattr(root, name)
        signature = inspect.signature(stock)

        def get_features(*args: Any, **kwargs: Any) -> Any:
            if self._asked:  # some families ask for a video as for images
                return stock(*args, **kwargs)
            self._asked.append([])
            try:
                out = stock(*args, **kwargs)
            finally:
                made = self._asked.pop()
            if made and hasattr(out, "__dict__"):
                made = list(adapter.arranged(kind, signature.bind(*args, **kwargs).arguments, out, made) or ())
            self._items[kind].append(made)
            if made and hasattr(out, "__dict__"):  # a tuple cannot go to a prompt ahead
                for bearer in bearers(out):
                    vars(bearer)[self._carried] = self, made
            return out

        with replaced(root, name, get_features):  # since 5.18 `generate` asks for its signature
            yield
