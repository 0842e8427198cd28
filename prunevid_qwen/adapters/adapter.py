"""All that the rest of the package knows of a model family. An adapter never sees a method."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from prunevid_qwen.needs import VisionQuery
from prunevid_qwen.tokens import TokenLayout


@dataclass(frozen=True)
class Parts:
    """The modules that hooks stand on.

    Args:
        model: the model itself: makes logits and losses of what ``root`` returns.
        root: sees token ids and grids, and owns `get_rope_index`.
        vision: the vision tower.
        decoder: sees embeddings, positions, mask and cache.
        layers: the decoder's layers; each has a ``self_attn``.
        text_config: the decoder's config, which decides the attention implementation.
    """

    model: Any
    root: Any
    vision: nn.Module
    decoder: nn.Module
    layers: Sequence[Any]
    text_config: Any


class Adapter(Protocol):
    """What `hooks` needs to know of a model family.

    ``family`` is the config's ``model_type``; ``media`` are the root's arguments that bring pixels or encoded pixels.
    ``hidden_size`` and ``heads`` are the decoder's, ``vision_blocks`` and ``vision_width`` the vision tower's.
    """

    parts: Parts
    family: str
    media: tuple[str, ...]
    hidden_size: int
    heads: int
    vision_blocks: Sequence[nn.Module]
    vision_width: int

    def has_media(self, kwargs: dict[str, Any]) -> bool:
        """Tell whether a call of the root brings pixels or encoded pixels along."""
        ...

    def types(self, ids: Tensor) -> Tensor:
        """Return 0 for text, 1 for image and 2 for video tokens."""
        ...

    def layout(self, ids: Tensor, positions: Tensor, question_end: int) -> TokenLayout | None:
        """Say what each token of one unpadded sample is; None for a text."""
        ...

    def reference_positions(self, input_ids: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Stand in for the library's `get_rope_index` with positions as trained."""
        ...

    def question_states(self, layer: int, hidden: Tensor, rope: tuple[Tensor, Tensor] | None) -> Tensor:
        """Make the queries of layer ``layer`` for some rows: [R, D] -> [H, R, d]."""
        ...

    def key_states(self, layer: int, hidden: Tensor, rope: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Make the keys of layer ``layer``: [S, D] -> [Hkv, S, d]; before rotary embedding where ``rope`` is None."""
        ...

    def scale(self, layer: int) -> float:
        """Factor on the attention logits of layer ``layer``."""
        ...

    def before_attention(self, layer: int, hidden: Tensor) -> Tensor:
        """Make of states [..., D] what the attention of layer ``layer`` is given."""
        ...

    def rope(self, hidden: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Make the rotary angles of positions [3, B, S], as the decoder's layers take them."""
        ...

    def vision_query(
        self, query: VisionQuery, note: Callable[[int, str, Tensor], None]
    ) -> AbstractContextManager[None]:
        """Look into blocks of the vision tower, inside the block.

        Args:
            query: which blocks, each from 0 on, and what of them.
            note: is told, in each call of the tower: a block, the kind, and [P, C] for the patches in the order in
                which the tower holds them.

        Raises:
            ConfigError: the tower has no such thing, as a CLS token.
        """
        ...

    def raster(self, states: Tensor, grid: Tensor) -> Tensor:
        """Average the tower's states of patches [P, C] over each visual token, in raster order: [N, C]."""
        ...
