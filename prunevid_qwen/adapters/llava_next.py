"""LLaVA-NeXT (LLaVA-1.6): an image as a whole and in tiles, with a newline after each row of the tiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from prunevid_qwen.adapters.family_table import register_family
from prunevid_qwen.adapters.llava import Llava
from prunevid_qwen.adapters.picture_grids import PictureGrid
from prunevid_qwen.adapters.seams import missing_seam


@register_family("llava_next", name="LLaVA-NeXT", checkpoints="llava-hf/llava-v1.6-*-hf")
class LlavaNext(Llava):
    """LLaVA-NeXT. An image is two rasters: of the whole image, and of its tiles without their padding.

    A newline ends each row of the tiles. It has no place. Where an image has no tiles, one newline ends its raster.

    Args:
        model: a loaded ``LlavaNextForConditionalGeneration``.

    Raises:
        UnsupportedError: its vision tower or its decoder is of another kind.
    """

    def pictures(self, kind: str, given: Mapping[str, Any], features: Any) -> Sequence[PictureGrid] | None:
        """Make the rasters of each image, by the sizes of the images that came with the pixels."""
        made = self.made(features, "images")
        sizes = self._sizes(given, made)
        if sizes is None:
            return None
        out: list[PictureGrid] = []
        for own, size in zip(made, sizes, strict=True):
            tiles = self._tiles(len(own), size)
            # the library's own arithmetic on marks: cells are 0, newlines -1
            marks = torch.zeros(tiles, self._whole, 1, device="cpu")
            packed = self._packed(marks, size, torch.full((1,), -1.0, device="cpu"))[:, 0]
            if len(packed) != len(own):
                return None
            if tiles == 1:
                out.append(self._raster(packed, self.side, self.shows_cls))
                continue
            out.append(self._raster(packed[: self._whole], self.side, self.shows_cls))
            rest = packed[self._whole :]
            if len(rest):  # a strip of few pixels is all padding to the tiles
                out.append(replace(self._raster(rest, int((rest < 0).sum())), part=True))
        return out

    def arranged(
        self, kind: str, given: Mapping[str, Any], features: Any, seen: Sequence[Tensor]
    ) -> Sequence[Tensor] | None:
        """Arrange what the tower made of tiles, each [patches, L, C], as the tokens of images: a newline has zeros."""
        made, left, out = self.made(features, "images"), list(seen), list[Tensor]()
        sizes = self._sizes(given, made)
        if sizes is None:
            return None
        for own, size in zip(made, sizes, strict=True):
            tiles = self._tiles(len(own), size)
            stacked = torch.stack([left.pop(0) for _ in range(tiles)])  # [tiles, patches, L, C]
            flat = stacked.flatten(2)
            packed = self._packed(flat, size, flat.new_zeros(flat.shape[-1])).unflatten(-1, stacked.shape[2:])
            out += [packed[: self._whole], packed[self._whole :]] if tiles > 1 else [packed]
        return out

    def made(self, features: Any, what: str) -> Any:
        """Return the features of each image or video."""
        made = getattr(features, "pooler_output", None)
        if made is None:
            raise missing_seam(f"the features of {what}", "pooler_output")
        return made

    @property
    def _whole(self) -> int:
        """Tokens of a whole image, or of a tile."""
        return self.side**2 + self.shows_cls

    def _sizes(self, given: Mapping[str, Any], made: Sequence[Tensor]) -> list[list[int]] | None:
        """Return (height, width) of each image; None where nobody told it and its tokens do not tell it either."""
        sizes = given.get("image_sizes")
        if sizes is not None:
            return torch.as_tensor(sizes).tolist()  # type: ignore[no-any-return]
        if any(len(own) != self._whole + 1 for own in made):
            return None
        return [[1, 1]] * len(made)

    def _tiles(self, tokens: int, size: Sequence[int]) -> int:
        """Return how many images the tower was given for one of so many tokens."""
        from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

        if tokens == self._whole + 1:
            return 1
        seen = self.config.vision_config.image_size
        return int(image_size_to_num_patches(size, self.config.image_grid_pinpoints, seen))

    def _packed(self, tiles: Tensor, size: Sequence[int], newline: Tensor) -> Tensor:
        """Pack [tiles, patches, C] as the model packs features: un-padded rows, ``newline`` [C] after each."""
        pack = getattr(self.parts.root, "pack_image_features", None)
        if pack is None:
            raise missing_seam("the model", "pack_image_features")
        out: Tensor = pack([tiles], torch.tensor([list(size)]), image_newline=newline, **self.packing())[0][0]
        return out

    def packing(self) -> dict[str, Any]:
        """Return what else the model's ``pack_image_features`` is told."""
        return {"vision_feature_select_strategy": self.config.vision_feature_select_strategy}

    def _raster(self, marks: Tensor, rows: int, led: bool = False) -> PictureGrid:
        """Make a raster of so many rows of the marks [N] of its tokens: -1 for a newline; ``led``: CLS comes first."""
        placed = marks >= 0
        placed[: int(led)] = False
        places = (placed.cumsum(0) - 1).masked_fill(~placed, -1)
        whole = None if bool(placed.all()) else tuple(places.tolist())
        return PictureGrid("image", (1, rows, int(placed.sum()) // rows), whole)
