"""Qwen3.5, dense and MoE: Qwen3-VL's prompts, a decoder in which most layers have linear attention."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from prunevid_qwen.adapters.family_table import register_family
from prunevid_qwen.adapters.qwen3_vl import Qwen3VL
from prunevid_qwen.adapters.text_decoder import Rope, TextDecoder
from prunevid_qwen.errors import UnsupportedError

KINDS = ("full_attention", "linear_attention")


@register_family("qwen3_5_moe", frontend="qwen3", name="Qwen3.5-MoE", checkpoints="Qwen/Qwen3.5-*-A*")
@register_family("qwen3_5", frontend="qwen3", name="Qwen3.5", checkpoints="Qwen/Qwen3.5-*")
class Qwen3_5(Qwen3VL):
    """Qwen3.5: no DeepStack; layers of two kinds, a gate beside the queries, and rotary angles for some channels.

    Args:
        model: a loaded ``Qwen3_5ForConditionalGeneration`` or ``Qwen3_5MoeForConditionalGeneration``.

    Raises:
        UnsupportedError: a layer is of another kind.
    """

    named = TextDecoder.named

    def __init__(self, model: Any) -> None:
        kinds = model.config.text_config.layer_types
        odd = sorted(set(kinds) - set(KINDS))
        if odd:
            raise UnsupportedError(
                f"this {model.config.model_type} has layers of the kind {', '.join(odd)}, for which pruning is not "
                f"proven; supported kinds are {', '.join(KINDS)}"
            )
        super().__init__(model)

    def take_deepstack(self, kwargs: dict[str, Any]) -> None:
        """Take the features that the decoder is to add after its first layers out of its call: there are none."""

    def door_mask(self, mask: Any) -> None:
        """Give the decoder no mask: each layer is given that of its kind, in every release."""

    def mask_of(self, layer: int, mask: Any, valid: Tensor | None, device: torch.device) -> Any:
        """Make of a finished mask for attention what a layer takes: one of linear attention, where padding stands."""
        if layer in self.attending:
            return mask
        # one token is none; the library looks at it for several rows alone
        return None if valid is None or valid.shape[1] == 1 or bool(valid.all()) else valid.to(device)

    def _projected(self, layer: int, name: str, hidden: Tensor, rope: Rope | None) -> Tensor:
        attention: Any = self.parts.layers[layer].self_attn
        made = getattr(attention, name)(hidden)
        if name == "q_proj":  # beside each head's queries stand what its output is gated by
            made = made.unflatten(-1, (-1, 2, attention.head_dim))[:, :, 0]
        states: Tensor = getattr(attention, f"{name[0]}_norm")(made.reshape(len(hidden), -1, attention.head_dim))
        states = states.transpose(0, 1)
        return states if rope is None else self._rotated(states, rope, attention)
