"""What a prompt shows: the grid of each image and video, noted where the model is asked for their features.

The decoder is given embeddings alone, and in many families nothing in them or beside them says how wide an image is.
Every way to a prompt passes `get_image_features` and `get_video_features`: the model's own forward, `generate`, which
encodes ahead of it since 5.18, and a caller who asks for features once and passes them to several prompts. Features
that are made ahead carry what was noted of them.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from prunevid_qwen.adapters.attachments import own_weights, replaced
from prunevid_qwen.adapters.positions import IMAGE, VIDEO
from prunevid_qwen.adapters.seams import missing_seam
from prunevid_qwen.errors import UnsupportedError

CODES = {"image": IMAGE, "video": VIDEO}
_CARRIED = "_prunevid_pictures"  # attribute of features: plain tuples, which load where this package is not


@dataclass(frozen=True)
class PictureGrid:
    """One raster of visual tokens, as it stands in a prompt: an image, a video, or a tile of one.

    Args:
        kind: "image" or "video".
        grid: (T, H, W) of its cells.
        cells: which cell each token stands for, in the order of the tokens, -1 for a token without a place (a newline,
            CLS); None where the tokens are the cells in raster order.
        part: it goes on with the image or video before it, as its tiles do with an image that is shown whole first.
    """

    kind: str
    grid: tuple[int, int, int]
    cells: tuple[int, ...] | None = None
    part: bool = False

    @property
    def tokens(self) -> int:
        """Placeholders of it in a prompt."""
        return self.grid[0] * self.grid[1] * self.grid[2] if self.cells is None else len(self.cells)


def bearers(output: Any) -> list[Any]:
    """Return features and their tensors: accelerate hands a model the same tensors in an output that it made anew."""
    tensors = getattr(output, "pooler_output", None)
    return [output, *(tensors if isinstance(tensors, (tuple, list)) else () if tensors is None else (tensors,))]


ReadGrids = Callable[[str, Mapping[str, Any], Any], Sequence[PictureGrid] | None]
"""`Adapter.pictures`: from a kind, what its features were asked for with, and the features."""


class Pictures(threading.local):
    """What the forward under way in this thread shows.

    Args:
        read: of the adapter.
        kinds: whose features are asked for; none where a family's positions tell the grids.
    """

    def __init__(self, read: ReadGrids, kinds: Sequence[str]) -> None:
        self._read, self._kinds = read, tuple(kinds)
        self._made: dict[str, list[PictureGrid] | None] = {}
        self._inside = False

    @contextmanager
    def watching(self, root: Any) -> Iterator[None]:
        """Note what ``root`` is asked for inside the block.

        Raises:
            SetupError: the installed transformers asks for features under other names.
        """
        with ExitStack() as stack:
            for kind in self._kinds:
                name = f"get_{kind}_features"
                if not hasattr(root, name):
                    raise missing_seam("the model", name)
                stack.enter_context(replaced(root, name, self._noting(root, kind, getattr(root, name))))
            yield

    def begin(self, ahead: Mapping[str, Any] | None) -> None:
        """Begin a forward: only what comes with it, and what is asked for from now on, is of it.

        Args:
            ahead: features by kind that were asked for before, or None.
        """
        self._made = {}
        for kind, features in (ahead or {}).items():
            if kind in self._kinds and features is not None:
                held = [getattr(bearer, _CARRIED) for bearer in bearers(features) if hasattr(bearer, _CARRIED)]
                carried = held[0] if held else None
                known = self._read(kind, {}, features) if carried is None else [PictureGrid(*each) for each in carried]
                self._note(kind, known)

    def deal(self, types: Sequence[Tensor]) -> list[tuple[PictureGrid, ...]]:
        """Hand each row of a prompt what it shows, in order.

        Args:
            types: for each row [S] on the CPU: 0 text, 1 image, 2 video. Rows may be repetitions of fewer prompts, each
                of them that often in a row, as under beams.

        Raises:
            UnsupportedError: what was noted is not what the rows show.
        """
        out: list[tuple[PictureGrid, ...]] = [()] * len(types)
        for kind in self._kinds:
            wanted = [int((row == CODES[kind]).sum()) for row in types]
            if not sum(wanted):
                continue
            made = self._made.get(kind, [])
            if made is None:
                raise UnsupportedError(
                    f"the features of an {kind} have a size that this model does not make, so their grid is unknown: "
                    "pass pixels, or let the model make the features inside the `pruned` block"
                )
            out = [(*had, *new) for had, new in zip(out, _dealt(kind, made, wanted), strict=True)]
        return out

    def _note(self, kind: str, known: Sequence[PictureGrid] | None) -> None:
        before = self._made.get(kind, [])
        self._made[kind] = None if known is None or before is None else [*before, *known]

    def _noting(self, root: Any, kind: str, stock: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(stock)

        def get_features(*args: Any, **kwargs: Any) -> Any:
            inside, self._inside = self._inside, True  # some families ask for a video as for images
            try:
                with own_weights(root):  # such as a newline's
                    out = stock(*args, **kwargs)
            finally:
                self._inside = inside
            if inside or not hasattr(out, "__dict__"):  # a tuple: asked for to be looked at, it goes to no prompt
                return out
            known = self._read(kind, signature.bind(*args, **kwargs).arguments, out)
            self._note(kind, known)
            if known is not None:
                for bearer in bearers(out):
                    vars(bearer)[_CARRIED] = [(each.kind, each.grid, each.cells, each.part) for each in known]
            return out

        return get_features


def _dealt(kind: str, made: Sequence[PictureGrid], wanted: Sequence[int]) -> list[tuple[PictureGrid, ...]]:
    """Cut what was made, in order, into rows of so many tokens."""
    there, asked = sum(each.tokens for each in made), sum(wanted)
    times = asked // there if there else 0
    left, out = iter(made), list[tuple[PictureGrid, ...]]()
    for number, count in enumerate(wanted):
        if times and number % times:
            out.append(out[-1])
            continue
        own: list[PictureGrid] = []
        while sum(each.tokens for each in own) < count and (following := next(left, None)) is not None:
            own.append(following)
        out.append(tuple(own))
    if [sum(each.tokens for each in row) for row in out] != list(wanted) or next(left, None) is not None:
        raise UnsupportedError(
            f"the prompts have {list(wanted)} {kind} tokens, but the features have {[each.tokens for each in made]}: "
            "pass the pixels of these prompts"
        )
    return out
