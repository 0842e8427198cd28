"""The frozen base model of a recipe, and the predictor that fits it."""

from __future__ import annotations

from typing import Any

import torch

from prunevid_qwen.adapters import adapter_for
from prunevid_qwen.bundled import is_bundled, source_of
from prunevid_qwen.errors import ConfigError, UnsupportedError
from prunevid_qwen.inputs.frontends import StockFrontend, frontend_for
from prunevid_qwen.inputs.qwen.preprocessor import Preprocessor
from prunevid_qwen.loading import config_of, load_model
from prunevid_qwen.stage2_select.glimpse.facts import GlimpseFacts
from prunevid_qwen.training.glimpse.recipe import GlimpseRecipe
from prunevid_qwen.training.glimpse.trainee import Trainee

_TAPS = 4  # blocks of the vision encoder that the published predictors read


def load_base(recipe: GlimpseRecipe, device: str) -> tuple[Any, Preprocessor | StockFrontend]:
    """Load the recipe's base model onto a device, frozen, with what prepares its inputs.

    Images of a family of the library's processor are padded to squares, as the authors pad LLaVA's.

    Raises:
        ConfigError, SetupError, UnsupportedError: as in `loading.load_model`; or the recipe limits the pixels of a
            family whose processor gives images their size.
    """
    source = source_of(recipe.model_path)
    family = config_of(source, {}).model_type
    stock = frontend_for(family) is StockFrontend
    if frontend_for(family) not in (StockFrontend, Preprocessor):
        raise UnsupportedError(
            f"{source} is of the family {family}, on which no predictor has been trained yet: pass a Qwen2.5-VL, a "
            "Qwen2-VL or a LLaVA-1.5"
        )
    if stock and recipe.max_pixels is not None:
        raise ConfigError(
            f"the processor of a {family} model gives images their size, and does not read "
            f"max_pixels={recipe.max_pixels}: set it to null, as in the recipe glimpse_llava"
        )
    arguments: dict[str, Any] = {
        "dtype": "float32" if is_bundled(recipe.model_path) and recipe.dtype == "auto" else recipe.dtype
    }
    if recipe.attn_implementation is not None:
        arguments["attn_implementation"] = recipe.attn_implementation
    reader: Preprocessor | StockFrontend
    if stock:
        reader = StockFrontend.from_pretrained(source, family)
        reader.pad_to_square = True
    else:
        reader = Preprocessor.from_pretrained(source, family)
    return load_model(source, device, arguments).requires_grad_(False), reader


def facts_for(model: Any, recipe: GlimpseRecipe) -> GlimpseFacts:
    """Say what predictor a recipe means for a model.

    Raises:
        ConfigError: layers or blocks that the model does not have, or sizes that do not divide.
    """
    adapter = adapter_for(model)
    layers, blocks = len(adapter.parts.layers), len(adapter.vision_blocks)
    stock = frontend_for(adapter.family) is StockFrontend  # then as the authors did with LLaVA
    last = -(-2 * layers // 3) - 1 if recipe.reduce_layer is None else recipe.reduce_layer
    taps = recipe.selected_visual_layers
    if taps is None:
        taps = _published_taps(model, blocks, getattr(adapter, "has_cls", False))
    elif not taps or any(not 0 <= block < blocks for block in taps):
        raise ConfigError(
            f"selected_visual_layers={list(taps)}, but the vision encoder of {recipe.model_path} has blocks 0 to "
            f"{blocks - 1}: name some of them, or leave it out"
        )
    try:
        facts = GlimpseFacts(
            layers=layers,
            hidden_size=adapter.hidden_size,
            heads=adapter.heads,
            vision_width=adapter.vision_width,
            selected_layers=(last,) if recipe.selected_layers is None else recipe.selected_layers,
            reduce_layer=last,
            selected_visual_layers=taps,
            width=recipe.width,
            condition=recipe.condition,
            vip_heads=recipe.vip_heads,
            use_attention_logits=not stock,
            pad_to_square=stock,
        )
        assert facts.shape
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return facts


def make_trainee(model: Any, facts: GlimpseFacts, recipe: GlimpseRecipe) -> Trainee:
    """Make fresh float32 parameters from the recipe's seed; whatever else draws random numbers is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return Trainee(facts, recipe.le_dropout, adapter_for(model).parts.text_config.rms_norm_eps)


def _published_taps(model: Any, blocks: int, clip: bool = False) -> tuple[int, ...]:
    """Blocks of full attention from the last to the first, or as many at equal distances; of CLIP those before them."""
    full = getattr(model.config.vision_config, "fullatt_block_indexes", None) or ()
    if len(full) != _TAPS:
        full = {max(0, -(-blocks * (number + 1) // _TAPS) - 1 - clip) for number in range(_TAPS)}
    return tuple(sorted((int(block) for block in full), reverse=True))
