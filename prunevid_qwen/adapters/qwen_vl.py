"""Qwen2.5-VL and Qwen2-VL: where their parts are, what their tokens mean, how their queries are made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from prunevid_qwen.adapters.attachments import replaced
from prunevid_qwen.adapters.family_table import register_family
from prunevid_qwen.adapters.picture_grids import PictureGrid
from prunevid_qwen.adapters.positions import IMAGE, TEXT, VIDEO, grid_of, reference_positions, runs
from prunevid_qwen.adapters.prompt_layout import layout_of
from prunevid_qwen.adapters.releases import library_agrees, warn_once_about_positions
from prunevid_qwen.adapters.seams import first_argument, missing_seam, require_arguments, taken, transformers_release
from prunevid_qwen.adapters.text_decoder import TextDecoder
from prunevid_qwen.adapters.tower_form import CLIP_STD, TowerForm
from prunevid_qwen.adapters.vision import vision_in_chunks
from prunevid_qwen.adapters.vision_blocks import Note, watched_blocks
from prunevid_qwen.adapters.windows import in_raster, window_order
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.needs import VisionQuery
from prunevid_qwen.tokens import TokenLayout

_KIND = {IMAGE: "image", VIDEO: "video"}


@register_family("qwen2_vl", frontend="qwen", name="Qwen2-VL", checkpoints="Qwen/Qwen2-VL-*")
@register_family("qwen2_5_vl", frontend="qwen", name="Qwen2.5-VL", checkpoints="Qwen/Qwen2.5-VL-*")
class QwenVL(TextDecoder):
    """Qwen2.5-VL and Qwen2-VL: stock transformers models, the same text stack and the same seams.

    Their grids are read off the positions, which every call of the decoder brings.

    Args:
        model: a loaded ``Qwen2_5_VLForConditionalGeneration`` or ``Qwen2VLForConditionalGeneration``.
    """

    POSITIONS = ("input_ids", "mm_token_type_ids", "image_grid_thw", "video_grid_thw", "attention_mask")
    spatial = True
    media = ("pixel_values", "pixel_values_videos", "mm_encoder_outputs")
    text_arguments = ("mm_token_type_ids", "rope_deltas")
    noted: tuple[str, ...] = ()
    pixel_std = CLIP_STD
    named: tuple[str, ...] = ("inputs_embeds", "position_ids", "attention_mask", "use_cache")

    def __init__(self, model: Any) -> None:
        super().__init__(model, {"image": "visual", "video": "visual"})
        root = self.parts.root
        vision: Any = self.parts.vision
        self.vision_blocks: Sequence[nn.Module] = list(vision.blocks)
        seen = (
            self.config.vision_config
        )  # Qwen2-VL calls the width of its blocks so, and that of its output hidden_size
        self.vision_width = int(getattr(seen, "embed_dim", None) or seen.hidden_size)
        self.merge = int(self.config.vision_config.spatial_merge_size)
        self.tokens_per_second: float | None = getattr(self.config.vision_config, "tokens_per_second", None)
        # the library's own: what somebody put in its place on this very model is called as the library calls it
        positions = getattr(type(root), "get_rope_index", None) or getattr(root, "get_rope_index", None)
        if positions is None:
            raise missing_seam("the model", "get_rope_index")
        timed = () if self.tokens_per_second is None else ("second_per_grid_ts",)
        taken(positions, "get_rope_index", *self.POSITIONS, *timed)

    def types(self, ids: Tensor) -> Tensor:
        """Return 0 for text, 1 for image and 2 for video tokens, same shape as ``ids``."""
        image = (ids == self.config.image_token_id).long() * IMAGE
        return image + (ids == self.config.video_token_id).long() * VIDEO

    def layout(
        self, ids: Tensor, positions: Tensor | None, question_end: int, shown: Sequence[PictureGrid] = ()
    ) -> TokenLayout | None:
        """Say what each token of one unpadded sample is.

        Args:
            ids: [S] token ids.
            positions: [3, S] position ids.
            question_end: tokens from here on are not part of the prompt (candidates of assisted decoding).
            shown: not needed.

        Returns:
            The layout, or None when the sample has no visual token.

        Raises:
            ConfigError: positions are not three-dimensional, or no token follows the last visual one.
        """
        assert positions is not None
        types = self.types(ids)
        try:
            seen = [
                PictureGrid(_KIND[kind], grid_of(positions[:, start:stop]))
                for kind, start, stop in runs(types[:question_end].tolist())
                if kind != TEXT
            ]
        except ValueError as error:
            raise ConfigError(str(error)) from error
        layout = layout_of(types, seen, question_end)
        return layout and replace(layout, words=self._words(ids[layout.question].tolist()))

    def _words(self, ids: list[int]) -> tuple[int, int] | None:
        """Where in the text after the last visual token the user's words stand: up to the end of that turn.

        The chat template closes a turn with the token on which `generate` stops.
        """
        ends = self.turn_ends
        stop = next((i for i, one in enumerate(ids) if one in ends), 0)
        closes = getattr(self.config, "vision_end_token_id", None)
        start = next((i for i, one in enumerate(ids) if one != closes), 0)  # Qwen3-VL's video may be closed twice
        return (start, stop) if start < stop else None

    @contextmanager
    def prompts(self, note: Callable[[Tensor | None, Any], None], as_trained: bool) -> Iterator[None]:
        """Hand each prompt that positions are made for to ``note``, and make them as the model was trained with.

        So are those of `generate` for which its caller made them.

        Args:
            note: takes ids [B, S] and the attention mask.
            as_trained: by `reference_positions`; else by what stands there, the library's.
        """
        root: Any = self.parts.root
        stock = root.get_rope_index
        chosen = self.reference_positions if as_trained else stock

        def get_rope_index(*args: Any, **kwargs: Any) -> Any:
            note(first_argument(args, kwargs, "the call of get_rope_index", "input_ids"), kwargs.get("attention_mask"))
            return chosen(*args, **kwargs)

        with super().prompts(note, as_trained), replaced(root, "get_rope_index", get_rope_index):
            yield

    def check_release(self) -> None:
        """Say, once a process, that the installed release places the text after a video elsewhere than in training."""
        release = transformers_release()
        if not library_agrees(release):
            warn_once_about_positions(release)

    def no_positions(self, came: Any) -> str:
        """Say why position ids that came, or None, cannot be read."""
        if came is not None:
            what = list(came.shape) if isinstance(came, Tensor) else type(came).__name__
            return (
                f"position_ids are {what}, expected [3, B, S] of time, height and width (or [4, B, S], with text "
                "positions first): leave position_ids out and pass mm_token_type_ids and the grids, or make them with "
                "model.model.get_rope_index"
            )
        return (
            "the decoder got no (t, h, w) positions: pass mm_token_type_ids and the grids. With a cached beginning, "
            "transformers before 5.18 counts on from an earlier prompt: set model.model.rope_deltas = None first"
        )

    @property
    def deltas(self) -> Tensor | None:
        """What the root keeps of the last prompt, [B, 1] int64: its next position minus its number of tokens."""
        return getattr(self.parts.root, "rope_deltas", None)

    @deltas.setter
    def deltas(self, value: Tensor | None) -> None:
        self.parts.root.rope_deltas = value

    def door_mask(self, mask: Any) -> Any:
        """Make of a layer's finished mask the mapping that the decoder takes as it is."""
        return {"full_attention": mask}

    def vision_in_chunks(self, tokens: int | None) -> AbstractContextManager[None]:
        """Let the tower take at most ``tokens`` visual tokens at once, but at least one temporal position."""
        return vision_in_chunks(self.parts.vision, tokens)

    @property
    def tower_form(self) -> TowerForm:
        """What reuse in the tower has to know of it."""
        tower: Any = self.parts.vision
        seen, blocks = self.config.vision_config, self.vision_blocks
        window = getattr(seen, "window_size", None)
        full = range(len(blocks)) if window is None else tower.fullatt_block_indexes
        return TowerForm(
            tower, tower.patch_embed, blocks, (tower.merger, *getattr(tower, "deepstack_merger_list", ())),
            self.vision_width, self.merge**2, None if window is None else window // (self.merge * seen.patch_size),
            frozenset(full), (int(seen.patch_size), int(seen.temporal_patch_size)), self.pixel_std,
        )  # fmt: skip

    def reference_positions(
        self,
        input_ids: Tensor,
        mm_token_type_ids: Tensor | None = None,
        image_grid_thw: Tensor | None = None,
        video_grid_thw: Tensor | None = None,
        second_per_grid_ts: Tensor | Sequence[float] | None = None,
        attention_mask: Tensor | None = None,
        **_others: Any,
    ) -> tuple[Tensor, Tensor]:
        """Stand in for the library's `get_rope_index`, with the positions the model was trained with.

        Args:
            input_ids: [B, S]; the types are read from the ids themselves.
            mm_token_type_ids: accepted as the library passes it, not needed.
            image_grid_thw: [images, 3] patches.
            video_grid_thw: [videos, 3] patches.
            second_per_grid_ts: [videos] seconds between temporal positions.
            attention_mask: [B, S], 0 on padding.

        Raises:
            ConfigError: placeholders and grids do not belong together.
        """
        try:
            return reference_positions(
                self.types(input_ids),
                attention_mask,
                self._merged(image_grid_thw),
                self._merged(video_grid_thw),
                None if second_per_grid_ts is None else [float(s) for s in second_per_grid_ts],
                self.tokens_per_second,
            )
        except ValueError as error:
            raise ConfigError(f"placeholders and grids do not match ({error}): pass both unchanged") from error

    def _merged(self, grids: Tensor | None) -> list[tuple[int, int, int]]:
        if grids is None:
            return []
        return [(int(t), int(h) // self.merge, int(w) // self.merge) for t, h, w in grids.tolist()]

    def one_row_a_token(self, angle: Tensor, attention: Any) -> Tensor:
        """Make of rotary angles [R, d], or [3, R, d] (before 5.17: one row for each of t, h, w), [R, d]."""
        if angle.ndim == 2:
            return angle
        sections = list(attention.config.rope_parameters["mrope_section"]) * 2
        return torch.cat([part[i % 3] for i, part in enumerate(angle.split(sections, dim=-1))], dim=-1)

    def vision_query(self, query: VisionQuery, note: Note) -> AbstractContextManager[None]:
        """Look into blocks of the tower, inside the block.

        Raises:
            ConfigError: the query asks for a CLS token's attention.
        """
        if "cls" in query.kinds:
            raise ConfigError(
                f"the vision encoder of {self.family} has no CLS token: use "
                'what="received" in VisionQuery, the attention from the other patches'
            )
        return watched_blocks(self.vision_blocks, query.indices, query.kinds, note, self.merge**2)

    def grid_of_call(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
        """Return the grids of a call of the tower, [images and videos, 3] patches."""
        if len(args) < 2:
            require_arguments(kwargs, "the vision encoder's call", "grid_thw")
        grid: Tensor = args[1] if len(args) > 1 else kwargs["grid_thw"]
        return grid

    def tokens_of_call(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[int]:
        """Count the visual tokens of each image or video that the tower was given."""
        return [t * h * w for t, h, w in self._merged(self.grid_of_call(args, kwargs))]

    def raster(self, states: Tensor, grid: Tensor | None) -> Tensor:
        """Average the tower's states of patches [P, C] over each visual token, in raster order: [N, C].

        Patches of a token stand together. In Qwen2.5-VL tokens stand window by window, in Qwen2-VL in raster order.

        Args:
            states: between two blocks of the tower.
            grid: [images and videos, 3] patches of the call.
        """
        seen = self.config.vision_config
        window = getattr(seen, "window_size", None)
        order = None if window is None else window_order(self._merged(grid), window // (self.merge * seen.patch_size))
        return in_raster(states, self.merge**2, order)
