"""What a glimpse predictor was made for: read from the config.json of either form, and written to that of ours."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from prunevid_qwen.errors import ConfigError, UnsupportedError, quoted
from prunevid_qwen.stage2_select.glimpse.vip import VIPShape

OURS = "prunevid_qwen_glimpse"
"""``model_type`` of a folder that this package wrote; the published ones end in ``_gp``."""

LLAVA = "llava_llama_gp"
"""``model_type`` of the published ones for LLaVA-1.5, whose config is flat; the other form is Qwen2.5-VL's."""

# What the published code also knows and this port does not: (key, what it takes when it is missing, what is supported).
_ONLY: tuple[tuple[str, Any, Any], ...] = (
    ("attn_fuse_type", "AttnFuserV1", "AttnFuserV1"),
    ("attn_fuse_hidden_act", "silu", "silu"),
    ("deep_supervision", True, False),
    ("le_length", 1, 1),
    ("le_norm_type", "rmsnorm", "rmsnorm"),
)
_ONLY_OF: dict[str, tuple[tuple[str, Any, Any], ...]] = {
    "qwen": (("attn_fuse_global", False, True), ("use_attention_logits", False, True)),
    LLAVA: (("image_aspect_ratio", None, ("pad", None)),),  # else tiles, which the authors' code refuses
}


@dataclass(frozen=True)
class GlimpseFacts:
    """Which model a glimpse predictor belongs to, where it looks, and how large it is.

    Args:
        layers: decoder layers of that model.
        hidden_size: its width D.
        heads: its attention heads H.
        vision_width: channels of its vision encoder's blocks.
        selected_layers: decoder layers whose attention logits are read, ascending.
        reduce_layer: the layer after which tokens are dropped; paper K is this + 1.
        selected_visual_layers: blocks of the vision encoder that are read, in the order of the VIP's blocks.
        width: E of the VIP.
        condition: F of the VIP.
        vip_heads: attention heads of the VIP.
        use_attention_logits: the VIP reads the glimpse token's attention logits, and else the logarithms of its
            probabilities over the whole row: text, visual tokens and itself (LLaVA).
        pad_to_square: it was trained on images that were padded to squares.
    """

    layers: int
    hidden_size: int
    heads: int
    vision_width: int
    selected_layers: tuple[int, ...]
    reduce_layer: int
    selected_visual_layers: tuple[int, ...]
    width: int = 256
    condition: int = 512
    vip_heads: int = 4
    use_attention_logits: bool = True
    pad_to_square: bool = False

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if name in _SWITCHES:
                if type(value) is not bool:
                    raise ConfigError(f"{name} is true or false, got {quoted(value)}")
                continue
            for number in value if isinstance(value, tuple) else (value,):
                if type(number) is not int or number < 0:
                    raise ConfigError(f"{name} is made of whole numbers of at least 0, got {quoted(value)}")
        chosen = self.selected_layers
        if not chosen or list(chosen) != sorted(set(chosen)):
            raise ConfigError(f"selected_layers are decoder layers in ascending order, got {list(chosen)}")
        if not chosen[-1] <= self.reduce_layer < self.layers:
            raise ConfigError(
                f"attention of layer {chosen[-1]} is to decide what is dropped after layer {self.reduce_layer} of "
                f"{self.layers}: selected_layers <= reduce_layer < num_hidden_layers has to hold"
            )
        try:
            _ = self.shape
        except ValueError as error:
            raise ConfigError(str(error)) from error

    @property
    def shape(self) -> VIPShape:
        """Sizes of the VIP."""
        return VIPShape(
            attention=len(self.selected_layers) * self.heads,
            vision=self.vision_width,
            taps=len(self.selected_visual_layers),
            width=self.width,
            condition=self.condition,
            heads=self.vip_heads,
        )

    def to_json(self) -> str:
        """Return the config.json of our own form; a switch is written where it is not as in earlier releases."""
        held = {
            name: value for name, value in asdict(self).items() if name not in _SWITCHES or value != _SWITCHES[name]
        }
        return json.dumps({"model_type": OURS, **held}, indent=2) + "\n"


_SWITCHES = {each.name: each.default for each in fields(GlimpseFacts) if each.type == "bool"}


def read_config(path: Path) -> dict[str, Any]:
    """Read config.json.

    Raises:
        ConfigError: it is not a JSON object.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON ({error}): was its download cut short?") from error
    if not isinstance(config, dict):
        raise ConfigError(f"{path} is a {type(config).__name__}, a config is a JSON object")
    return config


def facts_of(config: dict[str, Any], path: Path) -> GlimpseFacts:
    """Read the facts from the config of either form.

    Args:
        config: of `read_config`.
        path: where it stood, for what is said when it does not fit.

    Raises:
        ConfigError: it describes something else than a glimpse predictor, or misses an entry.
        UnsupportedError: a variant that this port does not compute.
    """
    kind = config.get("model_type")
    try:
        if kind == OURS:
            names = [name for name in GlimpseFacts.__dataclass_fields__ if name not in _SWITCHES or name in config]
            own: dict[str, Any] = {name: config[name] for name in names}
            made: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in own.items()}
            return GlimpseFacts(**made)
        if not (isinstance(kind, str) and kind.endswith("_gp")):
            raise ConfigError(
                f"{path} describes a {kind!r} model, not a glimpse predictor: pass a folder or hub id with the "
                "published modules (config.json and new_modules_gp.pt), not the language model's"
            )
        flat = kind == LLAVA
        for key, without, supported in (*_ONLY, *_ONLY_OF[LLAVA if flat else "qwen"]):
            allowed = supported if isinstance(supported, tuple) else (supported,)
            if config.get(key, without) not in allowed:
                raise UnsupportedError(
                    f"{path} says {key}={quoted(config.get(key, without), 60)}, supported is "
                    f"{' or '.join(map(repr, allowed))}: only the published forms of GlimpsePrune, for Qwen2.5-VL and "
                    "LLaVA-1.5, are computed here"
                )
        # LLaVA's count a tower's states, of which number 0 are the patches' embeddings: number i is of block i - 1
        taps = [block - 1 if flat else block for block in config["selected_visual_layers"]]
        return GlimpseFacts(
            layers=config["num_hidden_layers"],
            hidden_size=config["hidden_size"],
            heads=config["num_attention_heads"],
            vision_width=config["mm_hidden_size"] if flat else config["vision_config"]["hidden_size"],
            selected_layers=tuple(config["selected_layers"]),
            reduce_layer=config["reduce_layer"],
            selected_visual_layers=tuple(taps),
            width=config.get("attn_fuse_size", 256),
            condition=config.get("visual_cond_size", 256),
            vip_heads=config.get("attn_fuse_num_heads", 4),
            use_attention_logits=config.get("use_attention_logits", False),
            pad_to_square=flat and config.get("image_aspect_ratio") == "pad",
        )
    except (KeyError, TypeError) as error:
        raise ConfigError(f"{path} has no usable {error}: it is no config of a glimpse predictor") from error
