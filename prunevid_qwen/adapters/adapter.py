"""All that the rest of the package knows of a model family. An adapter never sees a method."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from prunevid_qwen.adapters.frame_tower import FrameTower
from prunevid_qwen.adapters.picture_grids import PictureGrid
from prunevid_qwen.adapters.tower_form import TowerForm
from prunevid_qwen.needs import VisionQuery
from prunevid_qwen.tokens import TokenLayout


@dataclass(frozen=True)
class Parts:
    """The modules that hooks stand on.

    Args:
        model: the model itself: makes logits and losses of what ``root`` returns.
        root: sees token ids and pixels, or what was encoded of them.
        towers: the vision tower of each kind of media, "image" and "video"; kinds may share one.
        decoder: sees embeddings, positions, mask and cache.
        layers: the decoder's layers; each has a ``self_attn``.
        text_config: the decoder's config, which decides the attention implementation.
    """

    model: Any
    root: Any
    towers: Mapping[str, nn.Module]
    decoder: nn.Module
    layers: Sequence[Any]
    text_config: Any

    @property
    def vision(self) -> nn.Module:
        """The first of the towers: in most families the only one."""
        return next(iter(self.towers.values()))


class Adapter(Protocol):
    """What `hooks` needs to know of a model family. `TextDecoder` answers for decoders of Llama's form.

    ``family`` is the config's ``model_type``. ``spatial``: position ids are [3 or 4, B, S], of time, height and width
    (with a row of the text's own before them); else [B, S]. ``media`` are the root's arguments that bring pixels or
    encoded pixels, ``text_arguments`` those that a text brings too, beside what every model takes. ``noted`` are the
    kinds whose grids `pictures` tells: none where positions do. ``named`` are the arguments that the root names in
    every call of its decoder. ``hidden_size`` and ``heads`` are the decoder's, ``vision_blocks`` and ``vision_width``
    the vision tower's. ``feature_block`` is the index, counted from the end, of the block of whose output features are
    made; ``salience`` is the word of `VisionQuery` for which "salience" stands here, "cls" or "received".
    ``deepstack`` is the number of first layers to whose outputs the decoder adds features of the tower's inner blocks.
    ``attending`` are the layers with attention over cached keys: all but those of linear attention. ``timestamped``: a
    timestamp, which is text, stands before each frame of a video.
    """

    parts: Parts
    family: str
    spatial: bool
    media: tuple[str, ...]
    text_arguments: tuple[str, ...]
    noted: tuple[str, ...]
    named: tuple[str, ...]
    hidden_size: int
    heads: int
    vision_blocks: Sequence[nn.Module]
    vision_width: int
    feature_block: int
    salience: str
    deepstack: int
    attending: tuple[int, ...]
    timestamped: bool
    deltas: Tensor | None
    """What the model keeps of a prompt to count the positions of what follows, None where it keeps nothing."""

    # ---- what a call shows

    def has_media(self, kwargs: dict[str, Any]) -> bool:
        """Tell whether a call of the root brings pixels or encoded pixels along."""
        ...

    def types(self, ids: Tensor) -> Tensor:
        """Return 0 for text, 1 for image and 2 for video tokens."""
        ...

    def pictures(self, kind: str, given: Mapping[str, Any], features: Any) -> Sequence[PictureGrid] | None:
        """Read the grids of images or videos off what their features were asked for with, and off the features.

        Args:
            kind: "image" or "video".
            given: arguments of `get_image_features` or `get_video_features`; none for features that were made where
                nobody watched.
            features: what it returned.

        Returns:
            In the order in which they stand in the prompts; None where they cannot be told.
        """
        ...

    def layout(
        self, ids: Tensor, positions: Tensor | None, question_end: int, shown: Sequence[PictureGrid] = ()
    ) -> TokenLayout | None:
        """Say what each token of one unpadded sample is; None for a text.

        Args:
            ids: [S] token ids, on the CPU.
            positions: [3 or 1, S] its position ids.
            question_end: tokens from here on are not part of the prompt (candidates of assisted decoding).
            shown: its images and videos of the kinds in ``noted``, in order.
        """
        ...

    def framed(self, layout: TokenLayout, ids: Tensor) -> TokenLayout:
        """Say in a layout which text belongs to which frame of a video, see `TokenLayout.frames`.

        Args:
            layout: of one unpadded sample.
            ids: [S] its token ids, on the CPU.
        """
        ...

    # ---- positions

    def prompts(self, note: Callable[[Tensor | None, Any], None], as_trained: bool) -> AbstractContextManager[None]:
        """Hand each whole prompt, ids [B, S] and attention mask, to ``note``, inside the block.

        Args:
            note: takes them before the forward that reads the prompt, where the library tells them; None once a
                `generate` is done.
            as_trained: positions are those of `reference_positions`; else the library's own.
        """
        ...

    def reference_positions(self, input_ids: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Return positions as trained, [3, B, S] or [B, S], and [B, 1]: the next one minus the number of tokens."""
        ...

    def no_positions(self, came: Any) -> str:
        """Say why position ids that came, or None, cannot be read."""
        ...

    def check_release(self) -> None:
        """Say, once a process, what is known to be wrong with the installed release and this family."""
        ...

    # ---- the vision towers

    @property
    def tower_form(self) -> TowerForm | None:
        """What `prunevid_qwen.vision` has to know of the tower; None where it is not of Qwen's form."""
        ...

    def vision_in_chunks(self, tokens: int | None) -> AbstractContextManager[None]:
        """Let the towers take at most about ``tokens`` visual tokens at once inside the block; None: no limit."""
        ...

    def frame_tower(self) -> FrameTower | None:
        """Describe the tower that is given videos frame by frame; None where no tower is."""
        ...

    def vision_query(
        self, query: VisionQuery, note: Callable[[int, str, Tensor], None]
    ) -> AbstractContextManager[None]:
        """Look into blocks of the vision tower, inside the block.

        Args:
            query: which blocks, each from 0 on, and what of them.
            note: is told, in each call of the tower: a block, the kind, and [..., C] for the patches as the tower
                holds them.

        Raises:
            ConfigError: the tower has no such thing, as a CLS token.
        """
        ...

    def grid_of_call(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
        """Return what the tower was told of the grids in one call; None where it is told none."""
        ...

    def tokens_of_call(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[int]:
        """Count the visual tokens of each image or video that the tower was given in one call."""
        ...

    def raster(self, states: Tensor, grid: Tensor | None) -> Tensor:
        """Average what the tower holds of patches over each visual token, in raster order: [N, C].

        Args:
            states: as the tower holds them, as `vision_query` noted them.
            grid: as `grid_of_call` returned it.
        """
        ...

    def arranged(
        self, kind: str, given: Mapping[str, Any], features: Any, seen: Sequence[Tensor]
    ) -> Sequence[Tensor] | None:
        """Arrange what the tower made as the tokens of the images or videos whose features were asked for.

        Args:
            kind, given, features: as `pictures` takes them.
            seen: of each image or video that the tower was given, in order: [N, L, C], as `tokens_of_call` counts.

        Returns:
            [N, L, C] of each image or video, or of parts of it, in the order of a prompt's tokens; None where
            `pictures` tells no grids.
        """
        ...

    # ---- the decoder

    def door_mask(self, mask: Any) -> Any:
        """Make of a layer's finished mask (4-D, 2-D or None) what the decoder takes as it is.

        None where its layers are of several kinds: then each is given what `mask_of` makes.
        """
        ...

    def mask_of(self, layer: int, mask: Any, valid: Tensor | None, device: torch.device) -> Any:
        """Make of a finished mask for attention what layer ``layer`` takes.

        Args:
            layer: which.
            mask: as `layer_mask` makes it.
            valid: [B, q] bool, where the call's own tokens are no padding; None where all are none.
            device: of the layer.
        """
        ...

    def take_deepstack(self, kwargs: dict[str, Any]) -> tuple[Tensor, list[Tensor]] | None:
        """Take the features that the decoder is to add out of its call, so that it adds none.

        Returns:
            [B, S] bool, True where a visual token stands, and for each of the first layers [n, D] for the visual tokens
            of all rows, one after the other; None where the call brings none.
        """
        ...

    def give_deepstack(self, kwargs: dict[str, Any], mask: Tensor, levels: list[Tensor]) -> None:
        """Put features, as `take_deepstack` returned them, into a call of the decoder."""
        ...

    def question_states(self, layer: int, hidden: Tensor, rope: tuple[Tensor, Tensor] | None) -> Tensor:
        """Make the queries of layer ``layer`` for some rows: [R, D] -> [H, R, d]."""
        ...

    def key_states(self, layer: int, hidden: Tensor, rope: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Make the keys of layer ``layer``: [S, D] -> [Hkv, S, d]; before rotary embedding where ``rope`` is None."""
        ...

    def rotated_ones(self, layer: int, rope: tuple[Tensor, Tensor]) -> Tensor:
        """Rotate an all-ones query or key of each token by its angles, as layer ``layer`` does: [R, d] fp32."""
        ...

    def turns(self, rope: tuple[Tensor, Tensor]) -> Tensor:
        """Stack rotary angles of n tokens, as the layers get them, with one row a token: [2, n, R], cosines first."""
        ...

    def scale(self, layer: int) -> float:
        """Factor on the attention logits of layer ``layer``."""
        ...

    def before_attention(self, layer: int, hidden: Tensor) -> Tensor:
        """Make of states [..., D] what the attention of layer ``layer`` is given."""
        ...

    def rope(self, hidden: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Make the rotary angles of positions, [3, B, S] or [B, S], as the decoder's layers take them."""
        ...
