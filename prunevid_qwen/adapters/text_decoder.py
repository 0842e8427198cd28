"""A decoder of Llama's form, as nearly all families have: its parts, and how its queries and keys are made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from prunevid_qwen.adapters.adapter import Parts
from prunevid_qwen.adapters.attachments import replaced
from prunevid_qwen.adapters.frame_tower import FrameTower
from prunevid_qwen.adapters.picture_grids import PictureGrid
from prunevid_qwen.adapters.seams import is_empty, missing_seam, require_arguments
from prunevid_qwen.adapters.tower_form import TowerForm
from prunevid_qwen.tokens import TokenLayout

Rope = tuple[Tensor, Tensor]


class TextDecoder:
    """What adapters share whose decoder has one-dimensional positions and the projections of Llama.

    Args:
        model: loaded, with ``lm_head`` beside ``model.language_model``.
        towers: by kind of what they encode, the names of the vision towers among the root's modules.
    """

    spatial = False
    media: tuple[str, ...] = ("pixel_values", "mm_encoder_outputs")
    noted: tuple[str, ...] = ("image",)
    named: tuple[str, ...] = ("inputs_embeds", "position_ids", "attention_mask")
    text_arguments: tuple[str, ...] = ()
    deepstack = 0
    timestamped = False
    feature_block = -1
    salience = "received"

    def __init__(self, model: Any, towers: Mapping[str, str]) -> None:
        self.config: Any = model.config
        self.family = str(model.config.model_type)
        root = model.get_submodule("model")
        decoder = root.get_submodule("language_model")
        layers = decoder.get_submodule("layers")
        assert isinstance(layers, nn.ModuleList)
        text_config = decoder.config
        self.parts = Parts(
            model, root, {kind: root.get_submodule(name) for kind, name in towers.items()}, decoder, list(layers),
            text_config,
        )  # fmt: skip
        self.attending = tuple(i for i, layer in enumerate(layers) if hasattr(layer, "self_attn"))
        self.hidden_size, self.heads = int(text_config.hidden_size), int(text_config.num_attention_heads)

    def frame_tower(self) -> FrameTower | None:
        """Describe the tower that is given videos frame by frame; None where no tower is."""
        return None

    @property
    def tower_form(self) -> TowerForm | None:
        """What reuse in the tower has to know of it: None, the tower is of another form."""
        return None

    @property
    def turn_ends(self) -> tuple[int, ...]:
        """Tokens that end a turn: those on which `generate` stops. Qwen3.5's decoder config names another one alone."""
        stops = getattr(getattr(self.parts.model, "generation_config", None), "eos_token_id", None)
        ends = (self.parts.text_config.eos_token_id, stops)
        listed = [each if isinstance(each, (list, tuple)) else [each] for each in ends]
        return tuple(dict.fromkeys(end for each in listed for end in each if end is not None))

    def has_media(self, kwargs: dict[str, Any]) -> bool:
        """Tell whether a call of the root brings pixels along, or what `generate` encoded ahead (since 5.18).

        `generate` hands an empty dict over where nothing was to be encoded: for a text.
        """
        return any(not is_empty(kwargs.get(name)) for name in self.media)

    def pictures(self, kind: str, given: Mapping[str, Any], features: Any) -> Sequence[PictureGrid] | None:
        """Read the grids off what was asked for; None where they cannot be told."""
        raise NotImplementedError

    def framed(self, layout: TokenLayout, ids: Tensor) -> TokenLayout:
        """Say which text belongs to which frame of a video: none does."""
        return layout

    def arranged(
        self, kind: str, given: Mapping[str, Any], features: Any, seen: Sequence[Tensor]
    ) -> Sequence[Tensor] | None:
        """Arrange what the tower made as the tokens of what features were asked for: it stands so already."""
        return seen

    def check_release(self) -> None:
        """Say what is known of the installed release and this family: nothing."""

    @contextmanager
    def prompts(self, note: Callable[[Tensor | None, Any], None], as_trained: bool) -> Iterator[None]:
        """Hand each prompt that `generate` is given to ``note``, before its first forward, and None when it is done.

        `generate` repeats every prompt for its beams once, whoever made the positions; a call of the model itself does
        not, and brings no more than its prompt.
        """
        name = "_expand_inputs_for_generation"
        stock, whole = getattr(self.parts.model, name, None), self.parts.model.generate
        if stock is None:
            raise missing_seam("the model", name)

        def expand(*args: Any, **kwargs: Any) -> Any:
            require_arguments(kwargs, f"the call of {name}", "input_ids")
            ids = kwargs["input_ids"]
            if isinstance(ids, Tensor) and ids.ndim == 2 and ids.shape[1]:  # else the prompt came as embeddings
                note(ids, kwargs.get("attention_mask"))
            return stock(*args, **kwargs)

        def generate(*args: Any, **kwargs: Any) -> Any:
            try:
                return whole(*args, **kwargs)
            finally:
                note(None, None)  # it may have raised before any forward

        with replaced(self.parts.model, name, expand), replaced(self.parts.model, "generate", generate):
            yield

    def reference_positions(self, input_ids: Tensor, *_args: Any, **others: Any) -> tuple[Tensor, Tensor]:
        """Count the tokens of each row, as `generate` does: [B, S] int64 (padding: 0), and no difference [B, 1].

        Args:
            input_ids: [B, S].
            others: of the root's call; ``attention_mask`` [B, S] is read.
        """
        mask = others.get("attention_mask")
        valid = torch.ones_like(input_ids) if mask is None else mask.long()
        return (valid.cumsum(-1) - 1).masked_fill(valid == 0, 0), valid.new_zeros(len(valid), 1)

    def no_positions(self, came: Any) -> str:
        """Say why position ids that came cannot be read."""
        what = list(came.shape) if isinstance(came, Tensor) else type(came).__name__
        return f"position_ids came as {what}, and this family counts tokens: pass [B, S], or leave position_ids out"

    @property
    def deltas(self) -> Tensor | None:
        """What the model keeps of a prompt to count the positions of what follows: nothing."""
        return None

    @deltas.setter
    def deltas(self, value: Tensor | None) -> None:
        assert value is None

    def door_mask(self, mask: Any) -> Any:
        """Make of a layer's finished mask (4-D, 2-D or None) what the decoder takes as it is: the mask itself."""
        return mask

    def mask_of(self, layer: int, mask: Any, valid: Tensor | None, device: torch.device) -> Any:
        """Make of a finished mask for attention what a layer takes: the mask itself."""
        return mask

    def take_deepstack(self, kwargs: dict[str, Any]) -> tuple[Tensor, list[Tensor]] | None:
        """Take the features that the decoder is to add after its first layers out of its call: there are none."""
        return None

    def give_deepstack(self, kwargs: dict[str, Any], mask: Tensor, levels: list[Tensor]) -> None:
        """Put features into a call of a decoder that adds none."""
        raise NotImplementedError

    def question_states(self, layer: int, hidden: Tensor, rope: Rope | None) -> Tensor:
        """Make the queries of layer ``layer`` for some rows.

        Args:
            layer: index of the layer.
            hidden: [R, D] what its attention was given (already normalised).
            rope: (cos, sin) as the layers get them, for these rows; None for none.

        Returns:
            [H, R, d].
        """
        return self._projected(layer, "q_proj", hidden, rope)

    def key_states(self, layer: int, hidden: Tensor, rope: Rope | None = None) -> Tensor:
        """Make the keys of layer ``layer``: [S, D] -> [Hkv, S, d]; before rotary embedding where ``rope`` is None."""
        return self._projected(layer, "k_proj", hidden, rope)

    def _projected(self, layer: int, name: str, hidden: Tensor, rope: Rope | None) -> Tensor:
        attention = self.parts.layers[layer].self_attn
        x: Tensor = getattr(attention, name)(hidden).view(hidden.shape[0], -1, attention.head_dim)
        norm = getattr(attention, f"{name[0]}_norm", None)  # of each head, as in Qwen3
        x = (x if norm is None else norm(x)).transpose(0, 1)
        return x if rope is None else self._rotated(x, rope, attention)

    def _rotated(self, x: Tensor, rope: Rope, attention: Any) -> Tensor:
        """Apply rotary embedding to [H, R, d]: to the first channels alone where the angles have fewer."""
        cos, sin = (self.one_row_a_token(angle, attention) for angle in rope)
        turned, rest = x.tensor_split((cos.shape[-1],), dim=-1)
        first, second = turned.chunk(2, dim=-1)
        turned = turned * cos + torch.cat((-second, first), dim=-1) * sin
        return torch.cat((turned, rest), dim=-1) if rest.shape[-1] else turned

    def rotated_ones(self, layer: int, rope: Rope) -> Tensor:
        """Make of an all-ones query or key of each token what rotary embedding makes of it: [R, d] fp32."""
        attention = self.parts.layers[layer].self_attn
        ones = torch.ones(1, rope[0].shape[-2], attention.head_dim, dtype=torch.float32, device=rope[0].device)
        return self._rotated(ones, rope, attention)[0]

    def one_row_a_token(self, angle: Tensor, attention: Any) -> Tensor:
        """Make of rotary angles as the layers get them [R, d]."""
        return angle

    def turns(self, rope: Rope) -> Tensor:
        """Stack rotary angles of n tokens, as the layers get them, with one row a token: [2, n, R], cosines first."""
        attention = self.parts.layers[self.attending[0]].self_attn
        return torch.stack([self.one_row_a_token(angle, attention) for angle in rope])

    def scale(self, layer: int) -> float:
        """Factor on the attention logits of layer ``layer``."""
        return float(self.parts.layers[layer].self_attn.scaling)

    def before_attention(self, layer: int, hidden: Tensor) -> Tensor:
        """Make of states [..., D] what the attention of layer ``layer`` is given: its norm."""
        normed: Tensor = self.parts.layers[layer].input_layernorm(hidden)
        return normed

    def rope(self, hidden: Tensor, positions: Tensor) -> Rope:
        """Make the rotary angles (cos, sin) of positions as the decoder takes them, in the dtype of ``hidden``."""
        decoder: Any = self.parts.decoder
        cos, sin = decoder.rotary_emb(hidden, positions)
        return cos, sin
