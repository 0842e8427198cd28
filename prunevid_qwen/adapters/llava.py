"""LLaVA-1.5 and its kin of one ``model_type``: a CLIP or SigLIP tower, a decoder of Llama's form (arXiv 2310.03744)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from prunevid_qwen.adapters.family_table import register_family
from prunevid_qwen.adapters.frame_tower import DEVIATIONS, FrameTower
from prunevid_qwen.adapters.picture_grids import PictureGrid
from prunevid_qwen.adapters.positions import IMAGE
from prunevid_qwen.adapters.prompt_layout import layout_of, words_of_turn
from prunevid_qwen.adapters.seams import first_argument, missing_seam
from prunevid_qwen.adapters.text_decoder import TextDecoder
from prunevid_qwen.adapters.vision import images_in_chunks
from prunevid_qwen.adapters.vision_blocks import Note, feature_block_of, watched_layers
from prunevid_qwen.errors import ConfigError, UnsupportedError
from prunevid_qwen.needs import VisionQuery
from prunevid_qwen.tokens import TokenLayout

TOWERS = ("clip_vision_model", "siglip_vision_model")
DECODERS = ("llama", "mistral", "qwen2", "gemma")  # others may turn other pairs of channels, or not in every layer
# Vicuna's prompt is "USER: <image>\nwords ASSISTANT:", in Llama's vocabulary, in which a line may begin with 29871.
# Mistral's is "[INST] <image>\nwords [/INST]". In other templates a turn ends with a token of its own.
LINE, TAIL = (29871, 13), (319, 1799, 9047, 13566, 29901)
LINES = {"mistral": (28705, 13), "qwen2": (198,)}
TAILS = {"llama": TAIL, "mistral": (733, 28748, 16289, 28793)}


def layers_of(tower: nn.Module) -> list[nn.Module]:
    """Find the layers of a CLIP or SigLIP tower, which some releases keep one module deeper."""
    inside = tower.named_modules()
    return next(
        list(module) for name, module in inside if name.endswith("layers") and isinstance(module, nn.ModuleList)
    )


@register_family("llava", name="LLaVA-1.5", checkpoints="llava-hf/llava-1.5-*-hf")
class Llava(TextDecoder):
    """LLaVA-1.5: one grid for every image, tokens that are counted in one dimension.

    Args:
        model: a loaded ``LlavaForConditionalGeneration``.

    Raises:
        UnsupportedError: its vision tower or its decoder is of another kind.
    """

    tower_names: Mapping[str, str] = {"image": "vision_tower"}

    def __init__(self, model: Any) -> None:
        seen, decoder = model.config.vision_config, model.config.text_config.model_type
        if decoder not in DECODERS:
            raise UnsupportedError(
                f"this {model.config.model_type}'s decoder is a {decoder}, which is not supported; supported decoders "
                f"are {', '.join(DECODERS)}"
            )
        if seen.model_type not in TOWERS:
            raise UnsupportedError(
                f"this {model.config.model_type}'s vision tower is a {seen.model_type}, which is not supported; "
                f"supported towers are {', '.join(TOWERS)}"
            )
        super().__init__(model, self.tower_names)
        self.side = int(seen.image_size) // int(seen.patch_size)
        self.vision_width = int(seen.hidden_size)
        self.has_cls = seen.model_type == "clip_vision_model"
        self.shows_cls = self.has_cls and self.config.vision_feature_select_strategy == "full"
        self.vision_blocks: Sequence[nn.Module] = layers_of(self.parts.vision)
        self.salience = "cls" if self.has_cls else "received"
        self.feature_block = feature_block_of(self.config.vision_feature_layer, len(self.vision_blocks))

    def types(self, ids: Tensor) -> Tensor:
        """Return 0 for text and 1 for image tokens, same shape as ``ids``."""
        return (ids == self.config.image_token_id).long() * IMAGE

    def pictures(self, kind: str, given: Mapping[str, Any], features: Any) -> Sequence[PictureGrid] | None:
        """Make one raster of each image; of strategy "full" CLS stands before it, without a place."""
        made = getattr(features, "pooler_output", None)
        if made is None:
            raise missing_seam("the features of images", "pooler_output")
        cells, sizes = self.side**2, [len(each) for each in made]
        if any(size not in (cells, cells + 1) for size in sizes):
            return None
        led = (-1, *range(cells))
        return [PictureGrid("image", (1, self.side, self.side), led if size > cells else None) for size in sizes]

    def layout(
        self, ids: Tensor, positions: Tensor | None, question_end: int, shown: Sequence[PictureGrid] = ()
    ) -> TokenLayout | None:
        """Say what each token of one unpadded sample is; None when it has no image."""
        layout = layout_of(self.types(ids), shown, question_end)
        return layout and replace(layout, words=self._words(ids[layout.question].tolist()))

    def _words(self, ids: list[int]) -> tuple[int, int] | None:
        """Where in the text after the last image or video the user's words stand: from a line's end to the tail."""
        decoder = self.parts.text_config.model_type
        lead, tail = LINES.get(decoder, LINE), TAILS.get(decoder, ())
        stop = len(ids) - len(tail)
        if not tail or tuple(ids[stop:]) != tail:
            return words_of_turn(ids, self.turn_ends, lead)
        start = next((i for i, token in enumerate(ids) if token not in lead), stop)
        return (start, stop) if start < stop else None

    @contextmanager
    def vision_in_chunks(self, tokens: int | None) -> Iterator[None]:
        """Let the tower take at most ``tokens`` visual tokens at once, but at least one image."""
        images = None if tokens is None else max(1, tokens // self.side**2)
        with ExitStack() as stack:
            for tower in dict.fromkeys(self.parts.towers.values()):
                stack.enter_context(images_in_chunks(tower, images))
            yield

    def frame_tower(self) -> FrameTower | None:
        """Describe the tower that is given videos frame by frame; None where the model is shown no videos."""
        tower, seen = self.parts.towers.get("video"), self.config.vision_config
        if tower is None:
            return None
        of_pixels = DEVIATIONS[seen.model_type]
        return FrameTower(tower, layers_of(tower), self.side, int(seen.patch_size), self.has_cls, of_pixels)

    def vision_query(self, query: VisionQuery, note: Note) -> AbstractContextManager[None]:
        """Look into blocks of the tower, inside the block.

        Raises:
            ConfigError: the query asks for a CLS token's attention, and a SigLIP tower has none.
        """
        self.check_query(query)
        return watched_layers(self.vision_blocks, query.indices, query.kinds, note)

    def check_query(self, query: VisionQuery) -> None:
        """Refuse a query that asks for a CLS token's attention where the tower has none, with a ConfigError."""
        if "cls" in query.kinds and not self.has_cls:
            raise ConfigError(
                f"the vision encoder of this {self.family}, a {self.config.vision_config.model_type}, has no CLS "
                'token: use what="received" in VisionQuery, the attention from the other patches'
            )

    def grid_of_call(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Every image has the same grid, of which the tower is not told."""

    def tokens_of_call(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[int]:
        """Count the visual tokens of each image that the tower was given."""
        images = len(first_argument(args, kwargs, "the vision encoder's call", "pixel_values"))
        return [self.side**2 + self.shows_cls] * images

    def raster(self, states: Tensor, grid: Tensor | None) -> Tensor:
        """Flatten what a block holds, [images, patches, C], to [N, C]: CLS stands first if the decoder sees it."""
        return torch.flatten(states[:, self.has_cls - self.shows_cls :], 0, 1)
