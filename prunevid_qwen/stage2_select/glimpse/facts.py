"""What a glimpse predictor was made for: read from the config.json of either form, and written to that of ours."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prunevid_qwen.errors import ConfigError, UnsupportedError, quoted
from prunevid_qwen.stage2_select.glimpse.vip import VIPShape

OURS = "prunevid_qwen_glimpse"
"""``model_type`` of a folder that this package wrote; the published ones end in ``_gp``."""

# What the published code also knows and this port does not: (key, what it takes when it is missing, what is supported).
_ONLY: tuple[tuple[str, Any, Any], ...] = (
    ("attn_fuse_type", "AttnFuserV1", "AttnFuserV1"),
    ("attn_fuse_hidden_act", "silu", "silu"),
    ("attn_fuse_global", False, True),
    ("use_attention_logits", False, True),
    ("deep_supervision", True, False),
    ("le_length", 1, 1),
    ("le_norm_type", "rmsnorm", "rmsnorm"),
)


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

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
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
        """Return the config.json of our own form."""
        return json.dumps({"model_type": OURS, **asdict(self)}, indent=2) + "\n"


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
            names = GlimpseFacts.__dataclass_fields__
            own: dict[str, Any] = {name: config[name] for name in names}
            made: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in own.items()}
            return GlimpseFacts(**made)
        if not (isinstance(kind, str) and kind.endswith("_gp")):
            raise ConfigError(
                f"{path} describes a {kind!r} model, not a glimpse predictor: pass a folder or hub id with the "
                "published modules (config.json and new_modules_gp.pt), not the language model's"
            )
        for key, missing, supported in _ONLY:
            if config.get(key, missing) != supported:
                raise UnsupportedError(
                    f"{path} says {key}={quoted(config.get(key, missing), 60)}, supported is "
                    f"{supported!r}: only the published "
                    "Qwen2.5-VL form of GlimpsePrune is computed here (LLaVA's reads a log-softmax instead)"
                )
        return GlimpseFacts(
            layers=config["num_hidden_layers"],
            hidden_size=config["hidden_size"],
            heads=config["num_attention_heads"],
            vision_width=config["vision_config"]["hidden_size"],
            selected_layers=tuple(config["selected_layers"]),
            reduce_layer=config["reduce_layer"],
            selected_visual_layers=tuple(config["selected_visual_layers"]),
            width=config.get("attn_fuse_size", 256),
            condition=config.get("visual_cond_size", 256),
            vip_heads=config.get("attn_fuse_num_heads", 4),
        )
    except (KeyError, TypeError) as error:
        raise ConfigError(f"{path} has no usable {error}: it is no config of a glimpse predictor") from error
