"""Qwen2.5-VL and Qwen2-VL: where their parts are, what their tokens mean, how their queries are made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from prunevid_qwen.adapters.adapter import Parts
from prunevid_qwen.adapters.table import register_family
from prunevid_qwen.adapters.windows import window_order
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.positions import IMAGE, TEXT, VIDEO, grid_of, reference_positions, runs
from prunevid_qwen.seams import is_empty, missing_seam, taken
from prunevid_qwen.tokens import Block, TokenLayout

_KIND = {IMAGE: "image", VIDEO: "video"}


@register_family("qwen2_5_vl", "qwen2_vl", frontend="qwen")
class QwenVL:
    """Qwen2.5-VL and Qwen2-VL: stock transformers models, the same text stack and the same seams.

    Args:
        model: a loaded ``Qwen2_5_VLForConditionalGeneration`` or ``Qwen2VLForConditionalGeneration``.
    """

    POSITIONS = ("input_ids", "mm_token_type_ids", "image_grid_thw", "video_grid_thw", "attention_mask")
    media: tuple[str, ...] = ("pixel_values", "pixel_values_videos", "mm_encoder_outputs")

    def __init__(self, model: Any) -> None:
        self.config: Any = model.config
        self.family = str(model.config.model_type)
        root = model.get_submodule("model")
        decoder = root.get_submodule("language_model")
        layers = decoder.get_submodule("layers")
        assert isinstance(layers, nn.ModuleList)
        text_config = decoder.config
        self.parts = Parts(model, root, root.get_submodule("visual"), decoder, list(layers), text_config)
        self.hidden_size, self.heads = int(text_config.hidden_size), int(text_config.num_attention_heads)
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

    def has_media(self, kwargs: dict[str, Any]) -> bool:
        """Tell whether a call of the root brings pixels along, or what `generate` encoded ahead (since 5.18).

        `generate` hands an empty dict over where nothing was to be encoded: for a text.
        """
        given = [kwargs.get(name) for name in self.media]
        return any(not is_empty(value) for value in given)

    def types(self, ids: Tensor) -> Tensor:
        """Return 0 for text, 1 for image and 2 for video tokens, same shape as ``ids``."""
        image = (ids == self.config.image_token_id).long() * IMAGE
        return image + (ids == self.config.video_token_id).long() * VIDEO

    def layout(self, ids: Tensor, positions: Tensor, question_end: int) -> TokenLayout | None:
        """Say what each token of one unpadded sample is.

        Args:
            ids: [S] token ids.
            positions: [3, S] position ids.
            question_end: tokens from here on are not part of the prompt (candidates of assisted decoding).

        Returns:
            The layout, or None when the sample has no visual token.

        Raises:
            ConfigError: positions are not three-dimensional, or no token follows the last visual one.
        """
        blocks: list[Block] = []
        at: list[Tensor] = []
        count = 0
        for kind, start, stop in runs(self.types(ids[:question_end]).tolist()):  # a candidate is text, whatever it is
            if kind == TEXT:
                continue
            try:
                grid = grid_of(positions[:, start:stop])
            except ValueError as error:
                raise ConfigError(str(error)) from error
            blocks.append(Block(_KIND[kind], grid, count, count + stop - start))
            at.append(torch.arange(start, stop, device=ids.device))
            count += stop - start
        if not blocks:
            return None
        visual = torch.cat(at)
        question = torch.arange(int(visual[-1]) + 1, min(question_end, ids.numel()), device=ids.device)
        if not question.numel():
            raise ConfigError(
                "no token follows the last image or video, so no question can be asked of it: put the question (or at "
                "least the generation prompt) after it"
            )
        sizes = torch.tensor([block.stop - block.start for block in blocks], device=ids.device)
        stratum = torch.arange(len(blocks), device=ids.device).repeat_interleave(sizes)
        return TokenLayout(ids.numel(), visual, question, tuple(blocks), stratum, self._words(ids[question].tolist()))

    def _words(self, ids: list[int]) -> tuple[int, int] | None:
        """Where in the text after the last visual token the user's words stand: up to the end of that turn.

        The chat template closes a turn with the token on which `generate` stops.
        """
        end = self.parts.text_config.eos_token_id
        ends = end if isinstance(end, (list, tuple)) else [end]
        stop = next((i for i, one in enumerate(ids) if one in ends), 0)
        start = int(stop > 0 and ids[0] == getattr(self.config, "vision_end_token_id", None))
        return (start, stop) if start < stop else None

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
            raise ConfigError(f"placeholders and grids do not belong together: {error}. Pass both as made") from error

    def _merged(self, grids: Tensor | None) -> list[tuple[int, int, int]]:
        if grids is None:
            return []
        return [(int(t), int(h) // self.merge, int(w) // self.merge) for t, h, w in grids.tolist()]

    def question_states(self, layer: int, hidden: Tensor, rope: tuple[Tensor, Tensor] | None) -> Tensor:
        """Make the queries of layer ``layer`` for some rows.

        Args:
            layer: index of the layer.
            hidden: [R, D] what its attention was given (already normalised).
            rope: (cos, sin), each [R, d] or [3, R, d] (before 5.17: one row for each of t, h, w), or None for none.

        Returns:
            [H, R, d].
        """
        attention = self.parts.layers[layer].self_attn
        q = attention.q_proj(hidden).view(hidden.shape[0], -1, attention.head_dim).transpose(0, 1)
        if rope is None:
            return q
        cos, sin = (self._one_row_a_token(angle, attention) for angle in rope)
        first, second = q.chunk(2, dim=-1)
        return q * cos + torch.cat((-second, first), dim=-1) * sin

    @staticmethod
    def _one_row_a_token(angle: Tensor, attention: Any) -> Tensor:
        if angle.ndim == 2:
            return angle
        sections = list(attention.config.rope_parameters["mrope_section"]) * 2
        return torch.cat([part[i % 3] for i, part in enumerate(angle.split(sections, dim=-1))], dim=-1)

    def key_states(self, layer: int, hidden: Tensor) -> Tensor:
        """Make the keys of layer ``layer`` before rotary embedding: [S, D] -> [Hkv, S, d]."""
        attention = self.parts.layers[layer].self_attn
        return attention.k_proj(hidden).view(hidden.shape[0], -1, attention.head_dim).transpose(0, 1)

    def scale(self, layer: int) -> float:
        """Factor on the attention logits of layer ``layer``."""
        return float(self.parts.layers[layer].self_attn.scaling)

    def before_attention(self, layer: int, hidden: Tensor) -> Tensor:
        """Make of states [..., D] what the attention of layer ``layer`` is given: its norm."""
        normed: Tensor = self.parts.layers[layer].input_layernorm(hidden)
        return normed

    def rope(self, hidden: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Make the rotary angles (cos, sin) of positions [3, B, S] in the dtype of ``hidden``."""
        decoder: Any = self.parts.decoder
        cos, sin = decoder.rotary_emb(hidden, positions)
        return cos, sin

    def raster(self, states: Tensor, grid: Tensor) -> Tensor:
        """Average the tower's states of patches [P, C] over each visual token, in raster order: [N, C].

        Patches of a token stand together. In Qwen2.5-VL tokens stand window by window, in Qwen2-VL in raster order.

        Args:
            states: between two blocks of the tower.
            grid: [images and videos, 3] patches of the call.
        """
        tokens = states.view(-1, self.merge**2, states.shape[-1]).mean(dim=1)
        seen = self.config.vision_config
        window = getattr(seen, "window_size", None)
        if window is None:
            return tokens
        order = window_order(self._merged(grid), window // (self.merge * seen.patch_size))
        out = torch.empty_like(tokens)
        out[order.to(tokens.device)] = tokens
        return out
