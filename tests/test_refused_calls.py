"""Each row of the list of refusals in docs/models.md has calls here that are refused, and each call has a row."""

from __future__ import annotations

import ast
import copy
import re
import traceback
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import DynamicCache, Qwen2Config, Qwen2ForCausalLM, StaticCache
from transformers.cache_utils import DynamicSlidingWindowLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling

from prunevid_qwen.adapters.seams import cache_of
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.errors import ConfigError, PruneVidError, PruningNotApplied, SetupError, UnsupportedError
from prunevid_qwen.forward.hooks import pruned
from tests import glimpse
from tests.models import CACHE, IMAGE, ONE_VIDEO, RAGGED, make_inputs, tiny_model
from tests.test_missing_seams import past_the_hooks, rename
from tests.test_pruning_equals_masking import TINY
from tests.test_right_padding import padded

PACKAGE = Path(__file__).resolve().parent.parent / "prunevid_qwen"
PAGE = (PACKAGE.parent / "docs" / "models.md").read_text(encoding="utf-8")
CONFIG = PruneVidConfig(**TINY)
STEP = {"input_ids": torch.tensor([[20]])}


def enter(config: PruneVidConfig = CONFIG, model: Any = None, **options: Any) -> None:
    with pruned(tiny_model() if model is None else model, config, **options):
        pass


def call(
    config: PruneVidConfig = CONFIG, model: Any = None, case: Any = ONE_VIDEO, marks: Any = None, **change: Any
) -> None:
    """A forward with other arguments; None leaves one out."""
    model = copy.deepcopy(tiny_model()) if model is None else model
    inputs = {k: v for k, v in {**make_inputs(case), **change}.items() if v is not None}
    with torch.no_grad(), pruned(model, config, marks=marks):
        model(**inputs)


def generate(case: Any = ONE_VIDEO, inputs: Any = None, **options: Any) -> None:
    model = copy.deepcopy(tiny_model())  # some releases keep a static cache on it
    with pruned(model, CONFIG):
        model.generate(**(inputs or make_inputs(case)), max_new_tokens=3, do_sample=False, **options)


def of_an_unknown_cache() -> None:
    from prunevid_qwen import PruneVidQwen25VL
    from research.bundled_model.architecture import build_model
    from research.bundled_model.tokenizer import build_tokenizer

    model = PruneVidQwen25VL(build_model(0).eval(), CONFIG, tokenizer=build_tokenizer())
    talk = [
        {"role": "user", "content": "what ?"},
        {"role": "assistant", "content": "a"},
        {"role": "user", "content": "b"},
    ]
    model.generate(messages=talk, past_key_values=pruned_cache())


def llava(*left_out: str, **options: Any) -> None:
    model = tiny_model(family="llava")
    inputs = make_inputs([[("text", 4), ("image", 4, 4), ("text", 5)]], family="llava")
    given = {name: value for name, value in inputs.items() if name not in left_out}
    with pruned(model, CONFIG):
        model.generate(**given, max_new_tokens=3, do_sample=False, **options)


def embedded_llava() -> None:
    """Positions of one dimension tell a text from an image no more than embeddings do."""
    model = tiny_model(family="llava")
    ids = make_inputs([[("text", 4), ("image", 4, 4), ("text", 5)]], family="llava")["input_ids"]
    with pruned(model, CONFIG), torch.no_grad():
        model(inputs_embeds=model.get_input_embeddings()(ids))


def own_assistant() -> None:
    with pruned(tiny_model(), CONFIG):
        tiny_model().generate(**make_inputs(ONE_VIDEO), max_new_tokens=3, assistant_model=tiny_model())


def nested() -> None:
    with pruned(tiny_model(), CONFIG):
        enter()


def pruned_cache(config: PruneVidConfig = CONFIG) -> Any:
    with torch.no_grad(), pruned(tiny_model(), config):
        return cache_of(tiny_model()(**make_inputs(ONE_VIDEO)))


def own_cache() -> Any:
    class Other(DynamicCache):
        pass

    return Other(config=tiny_model().config.get_text_config())


def sliding() -> Any:
    cache = DynamicCache()
    cache.layers = [DynamicSlidingWindowLayer(sliding_window=8)]
    return cache


def step(config: PruneVidConfig | None, **more: Any) -> None:
    cache = pruned_cache(CONFIG.replace(enable_cache_compression=False))
    if config is None:
        with torch.no_grad():
            tiny_model()(**STEP, **{CACHE: cache})
    else:
        with torch.no_grad(), pruned(tiny_model(), config):
            tiny_model()(**STEP, **{CACHE: cache}, **more)


def after_a_prefix(config: PruneVidConfig, **options: Any) -> None:
    model, inputs = tiny_model(), make_inputs(ONE_VIDEO)
    cache = DynamicCache(config=model.config.get_text_config())
    with pruned(model, config), torch.no_grad():
        model(input_ids=inputs["input_ids"][:, :4], **{CACHE: cache})
        model.model.rope_deltas = None  # before 5.18 the library would go on from the last prompt's
        model.generate(**inputs, **{CACHE: cache}, max_new_tokens=4, **options)


def in_pieces(end: int, *brings: str) -> None:
    """As chunked prefill calls the model: what the hooks refuse in any release."""
    inputs = make_inputs(ONE_VIDEO)
    known = {k: v for k, v in inputs.items() if k != "pixel_values_videos"}
    with torch.no_grad(), pruned(tiny_model(), CONFIG):
        places, _ = tiny_model().model.get_rope_index(**known)  # notes the prompt, as `generate` does before it cuts it
        more = {name: inputs[name] for name in brings}
        tiny_model()(input_ids=inputs["input_ids"][:, :end], position_ids=places[..., :end], **more)


def embeds() -> Any:
    return tiny_model().get_input_embeddings()(make_inputs(ONE_VIDEO)["input_ids"])


def in_decoder(**given: Any) -> None:
    with pruned(tiny_model(), CONFIG):
        tiny_model().model.language_model(**given)


def square() -> torch.Tensor:
    length = make_inputs(ONE_VIDEO)["input_ids"].shape[1]
    return torch.zeros(1, 1, length, length)


def positions() -> Any:
    inputs = {k: v for k, v in make_inputs(ONE_VIDEO).items() if k != "pixel_values_videos"}
    return copy.deepcopy(tiny_model()).model.get_rope_index(**inputs)[0]


def other_grid() -> None:
    """A video of one token less than its grid has."""
    inputs = make_inputs(ONE_VIDEO)
    inputs["input_ids"][0, 20] = 30
    generate(inputs=inputs)


def without_the_question() -> None:
    given = {k: v[:, :-7] for k, v in make_inputs(ONE_VIDEO).items() if k in ("input_ids", "attention_mask")}
    call(**given, mm_token_type_ids=make_inputs(ONE_VIDEO)["mm_token_type_ids"][:, :-7])


def checkpointed() -> None:
    model = copy.deepcopy(tiny_model()).train()
    model.gradient_checkpointing_enable()
    with pruned(model, CONFIG):
        model(**make_inputs(ONE_VIDEO))


def features_of_elsewhere() -> None:
    model, inputs = copy.deepcopy(tiny_model()), make_inputs(ONE_VIDEO)
    made = model.model.visual(inputs["pixel_values_videos"], grid_thw=inputs["video_grid_thw"])
    model.model.visual.forward = lambda *_args, **_kwargs: made
    for block in model.model.visual.blocks:  # the tower is not run: nothing is seen in its blocks
        block.forward = lambda *_args, **_kwargs: pytest.fail("the tower ran")
    call(config=glimpse.config(), model=model)


def past() -> None:
    model = copy.deepcopy(tiny_model())
    past_the_hooks(model.model.language_model)
    call(model=model)


def renamed() -> None:
    model = copy.deepcopy(tiny_model())
    rename(model.model.language_model, "position_ids")
    call(model=model)


def another_family() -> Any:
    return Qwen2ForCausalLM(
        Qwen2Config(vocab_size=9, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
                    num_key_value_heads=1, pad_token_id=0)
    )  # fmt: skip


def of_another_kind(family: str, part: str = "", **change: Any) -> None:
    """A model whose config, or that of a part, names a kind that is not known."""
    model = copy.deepcopy(tiny_model(family=family))
    config = getattr(model.config, part) if part else model.config
    for name, value in change.items():
        setattr(config, name, value)
    enter(model=model)


def balanced() -> None:
    """The loss that spreads a mixture's tokens over its experts."""
    model, inputs = tiny_model(family="qwen3_vl_moe"), make_inputs(ONE_VIDEO, family="qwen3_vl_moe")
    with torch.no_grad(), pruned(model, CONFIG):
        model(**inputs, output_router_logits=True, use_cache=False)


def taken_back() -> None:
    """A token off a state of linear attention, as candidates are under an assistant."""
    model = tiny_model(family="qwen3_5")
    with torch.no_grad(), pruned(model, CONFIG):
        held = cache_of(model(**make_inputs(ONE_VIDEO, family="qwen3_5")))
    held.crop(-1)


def other_features(tokens: int) -> None:
    """Two prompts with 8 and 24 placeholders, and features of 16 tokens; or one of as many as no image has."""
    model, inputs = copy.deepcopy(tiny_model(family="llava")), make_inputs([[("text", 40)]] * 2, family="llava")
    inputs["input_ids"][0, :8] = inputs["input_ids"][1, :24] = IMAGE
    made = BaseModelOutputWithPooling(pooler_output=[torch.randn(tokens, 64) for _ in range(32 // tokens)])
    model.model.get_image_features = lambda **_asked: made
    with torch.no_grad(), pruned(model, CONFIG):
        model(**inputs, pixel_values=torch.zeros(1, 3, 56, 56))


def sharded() -> None:
    model = copy.deepcopy(tiny_model())
    model._tp_plan_applied = True
    enter(model=model)


LABELS = make_inputs(ONE_VIDEO)["input_ids"]
MARKS = CONFIG.replace(selector="oracle")
PRE_ROPE = CONFIG.replace(attention_source="pre_rope")

# the rooms that a call passes, and what in them no call of a user reaches
HOOKS = ("forward", "stage3_kv", "adapters")
NOT_A_CALL = (
    "merges tokens inside the decoder",  # a method of ones own
    "was left while another thread was inside a call",  # test_threads reaches it
    "attention that every place pays",  # test_vision_reuse_pruned reaches it
    "encoded images or videos of",  # the row of features made outside the block; test_taps reaches it
)

# how the row's first cell begins -> who raises it, and calls
Errors = type[PruneVidError] | tuple[type[PruneVidError], ...]
CASES: dict[str, tuple[Errors, list[Callable[[], Any]]]] = {
    "another model family": (UnsupportedError, [lambda: enter(model=another_family()), nested, sharded,
        lambda: enter(model=tiny_model().model), lambda: of_another_kind("qwen2_5_vl", model_type="qwen4_exp"),
        *(partial(of_another_kind, family, part, model_type="another")
          for family in ("llava", "internvl") for part in ("vision_config", "text_config")),
        lambda: of_another_kind("qwen3_5", "text_config", layer_types=["sliding_attention"] * 6)]),
    "transformers before 5.6": (SetupError, [renamed]),
    "a config that does not fit": (ConfigError, [
        lambda: enter(CONFIG.replace(pruning_layer=99)), lambda: call(MARKS),
        lambda: call(MARKS, marks=[torch.ones(3)])]),
    "a static": (UnsupportedError, [
        lambda: generate(cache_implementation="static"), lambda: generate(cache_implementation="offloaded"),
        lambda: call(**{CACHE: StaticCache(config=tiny_model().config.get_text_config(), max_cache_len=64)}),
        lambda: call(**{CACHE: own_cache()}), lambda: call(**{CACHE: sliding()})]),
    "`use_cache=False`": (UnsupportedError, [
        lambda: generate(use_cache=False), lambda: call(use_cache=False, logits_to_keep=1)]),
    "a second visual prompt": (UnsupportedError, [lambda: call(**{CACHE: pruned_cache()})]),
    "a pruned cache outside": (UnsupportedError, [
        lambda: step(None), lambda: step(CONFIG.replace(pruning_layer=3)),
        lambda: step(CONFIG.replace(enable_stage2=False)),
        lambda: step(CONFIG.replace(enable_cache_compression=False), attention_mask=square()[:, :, -1:])]),
    "a follow-up whose": (ConfigError, [of_an_unknown_cache]),
    "a visual prompt whose beginning": (UnsupportedError, [
        lambda: after_a_prefix(CONFIG, prompt_lookup_num_tokens=2), lambda: after_a_prefix(PRE_ROPE)]),
    "assisted decoding": (UnsupportedError, [taken_back]),
    "chunked prefill": (UnsupportedError, [
        lambda: in_pieces(16), lambda: in_pieces(-3, "pixel_values_videos", "video_grid_thw")]),
    "`inputs_embeds` of images": (UnsupportedError, [
        lambda: call(input_ids=None, inputs_embeds=embeds()),
        lambda: call(input_ids=None, inputs_embeds=embeds(), pixel_values_videos=None, position_ids=positions()),
        lambda: in_decoder(input_ids=LABELS), embedded_llava]),
    "a visual prompt without its pixels": ((UnsupportedError, PruningNotApplied), [
        own_assistant, lambda: call(pixel_values_videos=None), lambda: llava("pixel_values"),
        lambda: llava(assistant_model=tiny_model(family="llava")),
        lambda: call(pixel_values_videos=None, position_ids=positions())]),
    "no `mm_token_type_ids`": (ConfigError, [
        lambda: call(mm_token_type_ids=None),
        lambda: generate(inputs={k: v for k, v in make_inputs(ONE_VIDEO).items() if k != "mm_token_type_ids"}),
        lambda: call(position_ids=torch.arange(LABELS.shape[1])[None]), other_grid]),
    "features of images": (UnsupportedError, [lambda: other_features(16), lambda: other_features(8)]),
    "no token after": (ConfigError, [without_the_question]),
    "padding on the right": (UnsupportedError, [
        lambda: generate(inputs=padded(RAGGED)), lambda: call(**padded(RAGGED), logits_to_keep=2)]),
    "a prepared mask without": (UnsupportedError, [
        lambda: call(attention_mask=square()), lambda: call(attention_mask=square(), position_ids=positions()),
        lambda: call(attention_mask=None, position_ids=torch.cat([positions()[:1] % 50, positions()])),
        lambda: call(attention_mask=None, use_cache=False, position_ids=torch.cat([positions()[:1] % 50, positions()])),
    ]),
    "`logits_to_keep` of": (UnsupportedError, [
        lambda: call(logits_to_keep=torch.tensor([20])), lambda: call(logits_to_keep=LABELS.shape[1])]),
    "`labels` of another shape": (ConfigError, [
        lambda: call(labels=LABELS[:, 1:]), lambda: call(labels=LABELS, logits_to_keep=3),
        lambda: call(labels=LABELS, shift_labels=LABELS)]),
    "`output_router_logits`": (UnsupportedError, [balanced]),
    "gradient checkpointing": (UnsupportedError, [checkpointed]),
    "a selector that looks": (UnsupportedError, [features_of_elsewhere]),
    "a block that is opened": (UnsupportedError, [torch.compile(enter, backend="eager")]),
    "a forward that runs past": (PruningNotApplied, [past]),
}  # fmt: skip


def rows() -> list[str]:
    section = PAGE.partition("## What is refused")[2].partition("\n## ")[0]
    return [row for row in re.findall(r"^\| (.*?) \|", section, re.MULTILINE) if row != "refused"]


def test_the_list_is_complete() -> None:
    matched = {start: [row for row in rows() if row.startswith(start)] for start in CASES}
    assert all(len(found) == 1 for found in matched.values()), matched
    assert len(rows()) == len(CASES)


@cache
def raised(start: str) -> list[PruneVidError]:
    error, calls = CASES[start]
    stock, out = tiny_model().model.rope_deltas, []
    for each in calls:
        try:
            with pytest.raises(error) as info:
                each()
        finally:
            tiny_model().model.rope_deltas = stock
        out.append(info.value)
    return out


@pytest.mark.parametrize("start", CASES)
def test_a_row_is_true(start: str) -> None:
    assert all(len(str(error)) > 40 for error in raised(start))


def test_every_refusal_of_the_hooks_has_a_row() -> None:
    """Each place that raises `UnsupportedError` where a call passes is one that the calls above reach."""
    reached = set()
    for start in CASES:
        for error in raised(start):
            last = traceback.extract_tb(error.__traceback__)[-1]
            reached.add((Path(last.filename).relative_to(PACKAGE).as_posix(), last.lineno))
    missed = []
    for room in HOOKS:
        for path in sorted((PACKAGE / room).glob("*.py")):
            name = path.relative_to(PACKAGE).as_posix()
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if not isinstance(node, ast.Raise) or "UnsupportedError(" not in ast.unparse(node):
                    continue
                lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
                if not any((name, line) in reached for line in lines):
                    missed.append(f"{name}:{node.lineno} {ast.unparse(node)}")
    assert [each for each in missed if not any(word in each for word in NOT_A_CALL)] == []
