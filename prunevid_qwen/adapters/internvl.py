"""InternVL: images as tiles of one size, a video as a tile of each frame (arXiv 2504.10479)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from math import isqrt
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from prunevid_qwen.adapters.family_table import register_family
from prunevid_qwen.adapters.llava import feature_block_of
from prunevid_qwen.adapters.picture_grids import PictureGrid
from prunevid_qwen.adapters.positions import IMAGE
from prunevid_qwen.adapters.prompt_layout import layout_of, words_of_turn
from prunevid_qwen.adapters.seams import first_argument, missing_seam
from prunevid_qwen.adapters.text_decoder import TextDecoder
from prunevid_qwen.adapters.vision import images_in_chunks
from prunevid_qwen.adapters.vision_blocks import Note, watched_layers
from prunevid_qwen.errors import UnsupportedError
from prunevid_qwen.needs import VisionQuery
from prunevid_qwen.tokens import TokenLayout

DECODERS = ("qwen2", "qwen3", "llama")
LINE = 198  # the end of a line in Qwen's vocabulary


@register_family("internvl", name="InternVL", checkpoints="OpenGVLab/InternVL3-*-hf")
class InternVL(TextDecoder):
    """InternVL: every tile has one grid, tokens are counted in one dimension.

    A tile is an image to every method, whichever image or frame of a video it is of: the library gives the model no
    videos, and the prompt has the text "Frame2: " between tiles.

    Args:
        model: a loaded ``InternVLForConditionalGeneration``.

    Raises:
        UnsupportedError: its vision tower or its decoder is of another kind.
    """

    salience = "cls"

    def __init__(self, model: Any) -> None:
        seen, decoder = model.config.vision_config, model.config.text_config.model_type
        if decoder not in DECODERS:
            raise UnsupportedError(
                f"this internvl's decoder is a {decoder}, which is not supported; supported decoders are "
                f"{', '.join(DECODERS)}"
            )
        if seen.model_type != "internvl_vision":
            raise UnsupportedError(
                f"this internvl's vision tower is a {seen.model_type}, which is not supported; the supported one is "
                "internvl_vision"
            )
        super().__init__(model, {"image": "vision_tower"})
        self.fold = round(1 / self.config.downsample_ratio)  # patches of a token in each direction
        self.side = int(seen.image_size[0]) // int(seen.patch_size[0]) // self.fold
        self.vision_width = int(seen.hidden_size)
        layers = self.parts.vision.get_submodule("encoder.layer")
        assert isinstance(layers, nn.ModuleList)
        self.feature_block = feature_block_of(self.config.vision_feature_layer, len(layers))
        self.vision_blocks: Sequence[nn.Module] = list(layers)

    def types(self, ids: Tensor) -> Tensor:
        """Return 0 for text and 1 for image tokens, same shape as ``ids``."""
        return (ids == self.config.image_token_id).long() * IMAGE

    def pictures(self, kind: str, given: Mapping[str, Any], features: Any) -> Sequence[PictureGrid] | None:
        """Make one square raster of each tile."""
        made = getattr(features, "pooler_output", None)
        if made is None:
            raise missing_seam("the features of images", "pooler_output")
        sides = [isqrt(len(each)) for each in made]
        if any(side**2 != len(each) for side, each in zip(sides, made, strict=True)):
            return None
        return [PictureGrid("image", (1, side, side)) for side in sides]

    def layout(
        self, ids: Tensor, positions: Tensor | None, question_end: int, shown: Sequence[PictureGrid] = ()
    ) -> TokenLayout | None:
        """Say what each token of one unpadded sample is; None when it has no image."""
        layout = layout_of(self.types(ids), shown, question_end)
        if layout is None:
            return None
        closing = self.config.image_token_id - 1  # </img>, which its vocabularies have before the image's own token
        words = words_of_turn(ids[layout.question].tolist(), self.turn_ends, (closing, LINE))
        return replace(layout, words=words)

    def vision_in_chunks(self, tokens: int | None) -> AbstractContextManager[None]:
        """Let the tower take at most ``tokens`` visual tokens at once, but at least one tile."""
        return images_in_chunks(self.parts.vision, None if tokens is None else max(1, tokens // self.side**2))

    def vision_query(self, query: VisionQuery, note: Note) -> AbstractContextManager[None]:
        """Look into blocks of the tower, inside the block."""
        norms = ("q_norm", "k_norm")  # nothing, or the norm of what the projections made
        return watched_layers(self.vision_blocks, query.indices, query.kinds, note, "attention", norms)

    def grid_of_call(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Every tile has the same grid, of which the tower is not told."""

    def tokens_of_call(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[int]:
        """Count the visual tokens of each tile that the tower was given."""
        tiles = first_argument(args, kwargs, "the vision encoder's call", "pixel_values")
        return [self.side**2] * len(tiles)

    def raster(self, states: Tensor, grid: Tensor | None) -> Tensor:
        """Average what a block holds, [tiles, 1 + patches, C], over each visual token: [N, C]."""
        side = isqrt(states.shape[1] - 1)
        patches = states[:, 1:].transpose(1, 2).unflatten(-1, (side, side))
        return avg_pool2d(patches, self.fold).flatten(2).transpose(1, 2).flatten(0, 1)
