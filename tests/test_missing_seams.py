"""What a release of transformers that renames something does to the hooks that read it: an error, at every seam.

The stub releases here are the installed one with a name changed: callers use the new name, the module understands it.
"""

from __future__ import annotations

import copy
import inspect
from typing import Any

import pytest
import torch
from torch import nn
from transformers import masking_utils
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as library

from prunevid_qwen.config import PruneVidConfig, get_baseline_config
from prunevid_qwen.errors import PruningNotApplied, SetupError
from prunevid_qwen.forward.hooks import pruned
from prunevid_qwen.receipt import check_applied
from tests import glimpse
from tests.families import FAMILIES, family_inputs, family_model
from tests.models import CACHE, make_inputs, tiny_model
from tests.test_pruning_equals_masking import TINY

CONFIG = PruneVidConfig(**TINY)
STAGE1 = CONFIG.replace(enable_stage2=False, enable_cache_compression=False)
MISSING = (SetupError, PruningNotApplied)
PIXELS = ("pixel_values_videos", "mm_encoder_outputs")


def rename(module: nn.Module, *names: str) -> None:
    """Let callers of ``module`` say ``names`` with an underscore behind them, as its hooks then see them."""
    stock = type(module)
    newer = {name: f"{name}_" for name in names}
    older = {new: name for name, new in newer.items()}

    class Renamed(stock):  # type: ignore[misc, valid-type]
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return super().__call__(*args, **{newer.get(name, name): value for name, value in kwargs.items()})

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return super().forward(*args, **{older.get(name, name): value for name, value in kwargs.items()})

    module.__class__ = Renamed


def forward(model: Any) -> None:
    """A prompt with a video or image, and a second one with padding in front."""
    family = model.config.model_type
    with torch.no_grad():
        for case in ("one", "batch"):
            model(**family_inputs(family, case))


def stub(place: str, *names: str, family: str = "qwen2_5_vl") -> Any:
    """A model of a release that has renamed ``names`` in all calls of a kind of module."""
    model = copy.deepcopy(family_model(family))
    decoder = model.model.language_model
    modules = {
        "root": [model.model], "decoder": [decoder], "layer": list(decoder.layers),
        "attention": [layer.self_attn for layer in decoder.layers],
        "vision": [model.model.get_submodule(name) for name in FAMILIES[family].towers],
    }[place]  # fmt: skip
    for module in modules:
        rename(module, *names)
    forward(model)  # the stub itself works
    return model


SEAMS = [
    ("root", ("input_ids",)), ("root", PIXELS), ("decoder", ("inputs_embeds",)), ("decoder", ("position_ids",)),
    ("decoder", ("attention_mask",)), ("decoder", (CACHE,)), ("attention", ("hidden_states",)),
    ("attention", ("position_embeddings",)), ("layer", ("attention_mask",)), ("layer", ("position_embeddings",)),
    ("decoder", ("use_cache",)), ("vision", ("grid_thw",)),
]  # fmt: skip
# that root names no use_cache, and its tower is given no grids
OTHERS = [(place, names) for place, names in SEAMS if names[0] not in ("use_cache", "grid_thw") and names != PIXELS]
LLAVA = [*OTHERS, ("root", ("pixel_values", "mm_encoder_outputs"))]
STACKED = [
    *(each for each in SEAMS if each[1][0] != "use_cache"), ("decoder", ("visual_pos_masks",)),
    ("decoder", ("deepstack_visual_embeds",)),
]  # fmt: skip
RENAMED = [
    pytest.param(family, place, names, id=f"{family}-{place}-{names[0]}")
    for family, seams in (("qwen2_5_vl", SEAMS), ("llava", LLAVA), ("qwen3_vl", STACKED))
    for place, names in seams
]


@pytest.mark.parametrize(("family", "place", "names"), RENAMED)
def test_a_renamed_argument(family: str, place: str, names: tuple[str, ...]) -> None:
    model = stub(place, *names, family=family)
    with pruned(model, CONFIG), pytest.raises(MISSING) as raised:
        forward(model)
    assert isinstance(raised.value, PruningNotApplied) or names[0] in str(raised.value)
    forward(model)  # and it is as it was


@pytest.mark.parametrize("names", [PIXELS, ("input_ids",)], ids=["pixels", "ids"])
@pytest.mark.parametrize("config", [STAGE1, get_baseline_config()], ids=["stage1", "baseline"])
def test_visual_tokens_without_their_pixels_are_no_text(names: tuple[str, ...], config: PruneVidConfig) -> None:
    """Not even where nothing is pruned: a receipt would say that there was no video."""
    model = stub("root", *names)
    with pruned(model, config), pytest.raises(MISSING):
        forward(model)


def test_a_single_visual_token_without_its_pixels() -> None:
    """Its position is that of a text: only the ids tell."""
    model = stub("root", "pixel_values", "mm_encoder_outputs")
    with pruned(model, CONFIG), pytest.raises(PruningNotApplied), torch.no_grad():
        model(**make_inputs([[("text", 3), ("image", 1, 1), ("text", 4)]]))


@pytest.mark.parametrize("config", [CONFIG, STAGE1], ids=["all", "stage1"])
def test_layers_that_fill_another_cache(config: PruneVidConfig) -> None:
    """As under 5.24.0 before we knew its name: the decoder drops the cache it is given and makes its own."""
    model = copy.deepcopy(tiny_model())
    decoder = model.model.language_model
    own = decoder.forward
    decoder.forward = lambda **kwargs: own(**{**kwargs, CACHE: None, "use_cache": True})
    with pruned(model, config), pytest.raises(MISSING):
        forward(model)


def past_the_hooks(module: nn.Module) -> None:
    """Let calls of ``module`` run its forward alone, as a replaced or compiled caller does."""

    class Bare(type(module)):  # type: ignore[misc]
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return self.forward(*args, **kwargs)

    module.__class__ = Bare


@pytest.mark.parametrize("place", ["model", "model.language_model"])
@pytest.mark.parametrize("config", [CONFIG, STAGE1], ids=["all", "stage1"])
def test_hooks_that_never_run(place: str, config: PruneVidConfig) -> None:
    model = copy.deepcopy(tiny_model())
    past_the_hooks(model.get_submodule(place))
    forward(model)
    with pruned(model, config), pytest.raises(PruningNotApplied):
        forward(model)


def with_parameters(function: Any, **newer: str) -> Any:
    """The same function with some parameters called otherwise."""
    older = {new: old for old, new in newer.items()}

    def renamed(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **{older.get(name, name): value for name, value in kwargs.items()})

    signature = inspect.signature(function)
    changed = [p.replace(name=newer.get(p.name, p.name)) for p in signature.parameters.values()]
    renamed.__signature__ = signature.replace(parameters=changed)  # type: ignore[attr-defined]
    return renamed


@pytest.mark.parametrize("name", ["config", "inputs_embeds", "attention_mask", CACHE, "position_ids"])
def test_masks_made_from_other_arguments(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = with_parameters(masking_utils.create_causal_mask, **{name: f"{name}_"})
    monkeypatch.setattr(masking_utils, "create_causal_mask", made)
    with pruned(tiny_model(), CONFIG), pytest.raises(SetupError, match=name):
        forward(tiny_model())


@pytest.mark.parametrize(
    "name",
    ["input_ids", "mm_token_type_ids", "image_grid_thw", "video_grid_thw", "attention_mask", "second_per_grid_ts"],
)
def test_positions_made_from_other_arguments(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = with_parameters(library.Qwen2_5_VLModel.get_rope_index, **{name: f"{name}_"})
    monkeypatch.setattr(library.Qwen2_5_VLModel, "get_rope_index", made)
    with pytest.raises(SetupError, match=name), pruned(tiny_model(), CONFIG):
        pass


def test_no_positions_to_replace(monkeypatch: pytest.MonkeyPatch) -> None:
    model = copy.deepcopy(tiny_model())
    monkeypatch.delattr(library.Qwen2_5_VLModel, "get_rope_index")
    with pytest.raises(SetupError, match="get_rope_index"), pruned(model, CONFIG):
        pass


@pytest.mark.parametrize("name", ["_expand_inputs_for_generation", "get_image_features"])
def test_a_family_without_positions_to_replace(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = copy.deepcopy(family_model("llava"))
    kinds = type(model.model if "get" in name else model).__mro__
    owner = next(kind for kind in kinds if name in vars(kind))
    monkeypatch.delattr(owner, name)
    with pytest.raises(SetupError, match=name), pruned(model, CONFIG):
        pass


def test_features_under_another_name() -> None:
    model = copy.deepcopy(family_model("llava"))
    stock = model.model.get_image_features
    model.model.get_image_features = lambda **asked: type("Other", (), {"pooled": stock(**asked).pooler_output})()
    with pruned(model, CONFIG), pytest.raises(SetupError, match="pooler_output"):
        forward(model)


def test_a_probe_and_a_renamed_cache_of_the_layers() -> None:
    """It would have run on the prompt's own cache, and left the probe's entries in it."""
    model = stub("layer", CACHE)
    with pruned(model, glimpse.config()), pytest.raises(SetupError, match=CACHE):
        forward(model)


def test_taps_and_features_under_another_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(library.Qwen2_5_VLModel, "get_video_features")
    with pytest.raises(SetupError, match="get_video_features"), pruned(tiny_model(), glimpse.config()):
        pass


def test_a_text_is_a_text(monkeypatch: pytest.MonkeyPatch) -> None:
    with pruned(tiny_model(), CONFIG) as trace:
        tiny_model().generate(**make_inputs([[("text", 9)], [("text", 5)]]), max_new_tokens=3, do_sample=False)
    assert [sample.tokens for sample in trace.samples] == [0, 0]


@pytest.mark.parametrize("config", [CONFIG, get_baseline_config()], ids=["paper", "baseline"])
def test_a_receipt_about_a_prompt_that_the_hooks_never_saw(config: PruneVidConfig) -> None:
    """Not a word about a text, and no IndexError either: the whole model runs past its hooks."""
    with pruned(tiny_model(), config) as trace:
        pass
    with pytest.raises(PruningNotApplied):
        check_applied(trace, config, [80])
    with pruned(tiny_model(), config) as trace:
        tiny_model().generate(**make_inputs([[("text", 9)]]), max_new_tokens=1)
    check_applied(trace, config, [0])
    with pytest.raises(PruningNotApplied):
        check_applied(trace, config, [80])
