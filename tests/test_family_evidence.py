"""What a step sees, over every family: the next layer's attention, states, keys, and the vision tower."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from prunevid_qwen.adapters import adapter_for
from prunevid_qwen.adapters.llava import DECODERS, feature_block_of
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.forward.hooks import pruned
from prunevid_qwen.forward.plan import Plan, Step
from prunevid_qwen.needs import AttentionQuery, Needs, VisionQuery
from prunevid_qwen.tokens.trace import DOOR
from tests.families import FAMILIES, crossed, family_inputs, family_model, member, often, skip_scrambled
from tests.looking import NextLayer, Rated, Received
from tests.test_keep_everything import generate
from tests.test_places import full, full_inputs
from tests.tolerances import close
from tests.watching import Notes, watched

OFTEN = pytest.mark.parametrize("family", often())
KINDS = ("received", "cls", "keys", "states", "pooled")


def visual_in(model: Any, inputs: dict[str, Any], b: int) -> Tensor:
    return adapter_for(model).types(inputs["input_ids"][b]).nonzero()[:, 0]


@OFTEN
@pytest.mark.parametrize("at", [DOOR, 2])
def test_what_the_decoder_makes(family: str, at: int) -> None:
    if at == DOOR and FAMILIES[family].linear:
        pytest.skip("the first layer has neither weights nor keys; tests/test_linear_attention.py sees it refused")
    model, inputs = family_model(family, "eager"), family_inputs(family, "batch")
    query = AttentionQuery(heads="mean", rows="each", projections="next", top_heads=3)
    notes = Notes(Needs(query, question="last", keys=True))
    made = watched(model, inputs, Plan((Step(at, notes),)))
    states = made.embeds if at == DOOR else made.outputs[at]
    for b, seen in enumerate(notes.seen):
        visual = visual_in(model, inputs, b)
        p = made.weights[at + 1][b][:, int(visual[-1]) + 1 :, visual]
        best = sorted(range(len(p)), key=lambda head: -float(p[head].sum()))[:3]
        assert seen.attention is not None and seen.keys is not None
        close(seen.attention, p[best].mean(0).log())
        close(seen.keys, made.cache.layers[max(at, 0)].keys[b][:, visual])
        assert torch.equal(seen.hidden, states[b, visual]) and torch.equal(seen.question, states[b, -1:])
    assert len(notes.seen) == 2


def with_decoder(family: str, decoder: str) -> Any:
    """A tiny model with another decoder: of the same sizes, with random weights large enough to attend unevenly."""
    options = family_model(family).config.to_dict()
    sizes = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
             "num_key_value_heads", "eos_token_id", "pad_token_id")  # fmt: skip
    own = {name: options["text_config"][name] for name in sizes}
    options["text_config"] = {**own, "model_type": decoder, "head_dim": 16, "sliding_window": None}
    kind = type(family_model(family))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = kind._from_config(kind.config_class(**options), attn_implementation="eager").eval()
        with torch.no_grad():
            for weight in model.parameters():
                if weight.ndim == 2:
                    weight.normal_().mul_(1.5 / weight.shape[1] ** 0.5)
    return model


@pytest.mark.parametrize("decoder", DECODERS)
def test_each_decoder_of_a_llava_makes_queries_and_keys_as_is_known(decoder: str) -> None:
    model, inputs = with_decoder("llava", decoder), family_inputs("llava", "one")
    notes = Notes(Needs(AttentionQuery(heads="mean", rows="each", projections="next")))
    made = watched(model, inputs, Plan((Step(DOOR, notes), Step(2, notes))))
    visual = visual_in(model, inputs, 0)
    for seen, layer in zip(notes.seen, (0, 3), strict=True):
        assert seen.attention is not None
        close(seen.attention, made.weights[layer][0][:, int(visual[-1]) + 1 :, visual].mean(0).log())


def test_more_rows_than_axes_of_positions() -> None:
    inputs = {name: torch.cat([x, x]) for name, x in family_inputs("llava", "batch").items()}
    notes = Notes(Needs(AttentionQuery(rows="last", projections="next")))
    watched(family_model("llava"), inputs, Plan((Step(DOOR, notes),)))
    first, second, third, fourth = (seen.attention for seen in notes.seen)
    assert first is not None and second is not None and torch.equal(first, third) and torch.equal(second, fourth)


@pytest.mark.parametrize(("mode", "family"), crossed(["greedy", "beam"], "greedy"))
def test_evidence_leaves_no_trace_on_the_model(mode: str, family: str) -> None:
    """Every kind of it is gathered, and everything kept: the stock model, bit for bit."""
    model, rated = family_model(family), Rated(1.0)
    methods = {DOOR: NextLayer(1.0), 1: rated, 2: NextLayer(1.0), 3: Received(1.0), 4: rated}
    if FAMILIES[family].linear:  # neither the first layer nor the last has attention to look at
        methods = {at: method for at, method in methods.items() if at in (1, 2, 3)}
    steps = tuple(Step(at, method) for at, method in methods.items())
    stock = generate(model, family_inputs(family, "batch"), mode)
    with pruned(model, Plan(steps, position_scheme="hf")) as trace:
        ours = generate(model, family_inputs(family, "batch"), mode)
    assert torch.equal(stock.sequences, ours.sequences)
    assert all(torch.equal(a, b) for a, b in zip(stock.logits, ours.logits, strict=True))
    assert all(len(row.reductions) == len(steps) for row in trace.samples if row.tokens)


# ---- words for a block and a kind that differ from tower to tower

WORDS = {"llava_onevision": ("received", -1), "internvl": ("cls", -1)}
OF_CLIP = ("llava", "llava_next", "llava_next_video", "video_llava")


@OFTEN
def test_salience_and_the_block_of_the_features(family: str) -> None:
    """Salience is CLS's attention where there is a CLS token; LLaVA makes features of the last block but one."""
    kind, last = WORDS.get(family, ("cls", -2) if family in OF_CLIP else ("received", -1))
    model, inputs = family_model(family), family_inputs(family, "one")
    blocks = len(adapter_for(model).vision_blocks)
    said, meant = (
        Notes(Needs(vision=VisionQuery(which, what=kinds)))
        for which, kinds in ((("features", 0.25), ("salience", "keys")), ((last, blocks // 4), (kind, "keys")))
    )
    for notes in (said, meant):
        watched(model, inputs, Plan((Step(DOOR, notes),)))
    ours, theirs = said.seen[0].vision, meant.seen[0].vision
    assert ours is not None and theirs is not None and tuple(ours) == ("salience", "keys")
    assert torch.equal(ours["salience"], theirs[kind]) and torch.equal(ours["keys"], theirs["keys"])
    assert torch.equal(*ours["keys"]) == (blocks + last == blocks // 4)


def test_features_of_several_blocks_are_of_the_last() -> None:
    assert [feature_block_of(layer, 24) for layer in (-2, 24, 1, (-2, -5), (3, 20))] == [-2, -1, -24, -2, -5]


# ---- a tower of CLIP's form


@torch.no_grad()
def of_clip(model: Any, pixels: Tensor, layer: int) -> dict[str, Tensor]:
    """What a layer of an eager CLIP tower makes, [images, 1 + patches, ...]."""
    tower, seen = model.model.vision_tower, dict[str, Any]()
    block = adapter_for(model).vision_blocks[layer]
    handles = [
        block.register_forward_hook(lambda _m, _a, out: seen.update(states=out[0] if isinstance(out, tuple) else out)),
        block.self_attn.register_forward_hook(lambda _m, _a, out: seen.update(weights=out[1])),
        block.self_attn.k_proj.register_forward_hook(lambda _m, _a, out: seen.update(keys=out)),
        block.self_attn.q_proj.register_forward_hook(lambda _m, _a, out: seen.update(queries=out)),
    ]
    tower(pixels)
    for handle in handles:
        handle.remove()
    weights = seen["weights"]  # [images, H, P, P]
    queries, keys = (seen[name].unflatten(-1, (weights.shape[1], -1)) for name in ("queries", "keys"))
    logits = torch.einsum("ihd,iphd->ihp", queries.mean(1), keys) * block.self_attn.scale
    return {
        "received": weights.mean((1, 2)), "cls": weights[:, :, 0].mean(1), "keys": keys.mean(2),
        "states": seen["states"], "pooled": logits.softmax(-1).mean(1),
    }  # fmt: skip


@pytest.mark.parametrize("at", [DOOR, 2])
def test_a_clip_tower_shows_what_its_eager_attention_computes(at: int) -> None:
    inputs, notes = family_inputs("llava", "batch"), Notes(Needs(vision=VisionQuery((-2, 0), what=KINDS)))
    watched(family_model("llava"), inputs, Plan((Step(at, notes),)))
    wanted = [of_clip(family_model("llava", "eager"), inputs["pixel_values"], layer) for layer in (1, 0)]
    images = [[0], [1, 2, 3]]
    for own, seen in zip(images, notes.seen, strict=True):
        assert seen.vision is not None and tuple(seen.vision) == KINDS
        for kind, found in seen.vision.items():
            close(found, torch.stack([each[kind][own][:, 1:].flatten(0, 1) for each in wanted]))
    assert len(notes.seen) == 2


def test_a_cls_token_that_the_decoder_sees_has_its_own() -> None:
    notes = Notes(Needs(vision=VisionQuery((1,), what=KINDS)))
    watched(full(), full_inputs("one"), Plan((Step(DOOR, notes),)))
    wanted = of_clip(full("eager"), full_inputs("one")["pixel_values"], 1)
    (seen,) = notes.seen
    assert seen.vision is not None and seen.layout.cells is not None and int(seen.layout.cells[0]) == -1
    for kind, found in seen.vision.items():
        close(found[0], wanted[kind].flatten(0, 1))


@pytest.mark.parametrize("tokens", [1, 40])
def test_a_clip_tower_in_chunks(tokens: int) -> None:
    seen = []
    for chunk in (None, tokens):
        notes = Notes(Needs(vision=VisionQuery((1,), what=KINDS)))
        watched(family_model("llava"), family_inputs("llava", "batch"), Plan((Step(1, notes),), True, "hf", chunk))
        seen.append(notes.seen)
    for whole, parts in zip(*seen, strict=True):
        for kind in KINDS:
            close(whole.vision[kind], parts.vision[kind])


@OFTEN
def test_a_batch_shows_what_its_members_show(family: str) -> None:
    query = VisionQuery((0,), what=("received", "keys", "pooled"))
    together = Notes(Needs(vision=query))
    watched(family_model(family), family_inputs(family, "batch"), Plan((Step(DOOR, together),)))
    for b, seen in enumerate(together.seen):
        alone = Notes(Needs(vision=query))
        watched(family_model(family), member(family, "batch", b), Plan((Step(DOOR, alone),)))
        assert seen.vision is not None and alone.seen[0].vision is not None
        for kind in query.kinds:
            close(seen.vision[kind], alone.seen[0].vision[kind])


@OFTEN
def test_encoded_ahead_by_generate_and_under_beams(family: str) -> None:
    skip_scrambled(family)
    notes = Notes(Needs(vision=VisionQuery((0,), what=("received",))))
    plan, inputs = Plan((Step(DOOR, notes),)), family_inputs(family, "one")
    with pruned(family_model(family), plan), torch.no_grad():
        family_model(family)(**inputs)
        family_model(family).generate(**inputs, max_new_tokens=2, num_beams=2, do_sample=False)
    alone, *beams = notes.seen
    assert len(beams) == 1, "beams of one prompt show the same, and are decided once"
    close(alone.vision["received"], beams[0].vision["received"])  # type: ignore[index]


def test_a_tower_without_a_cls_token_says_so() -> None:
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    config = copy.deepcopy(family_model("llava").config)
    seen = {**config.vision_config.to_dict(), "model_type": "siglip_vision_model"}
    config = LlavaConfig(**{**config.to_dict(), "vision_config": seen, "vision_feature_select_strategy": "full"})
    model = LlavaForConditionalGeneration(config).eval()
    query = Notes(Needs(vision=VisionQuery((0,), what="cls")))
    with pytest.raises(ConfigError, match="CLS"), pruned(model, Plan((Step(DOOR, query),))):
        pass
    notes = Notes(Needs(vision=VisionQuery((0,), what=("received", "states"))))
    watched(model, family_inputs("llava", "one"), Plan((Step(DOOR, notes),)))
    (shown,) = notes.seen
    assert shown.vision is not None
    close(float(shown.vision["received"].sum()), 1.0)


@OFTEN
def test_the_users_words_end_where_generate_stops(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Qwen3.5's decoder config names <|endoftext|>; that <|im_end|> ends a turn stands in generation_config.json."""
    model, inputs = family_model(family), family_inputs(family, "one")
    end = 9
    monkeypatch.setattr(model.generation_config, "eos_token_id", [end, 8])
    inputs["input_ids"][0, -6:] = torch.tensor([50, 51, 52, end, 53, 54])
    notes = Notes(Needs(question="question"))
    watched(model, inputs, Plan((Step(2, notes),)))
    (seen,) = notes.seen
    assert seen.layout.words is not None
    start, stop = seen.layout.words
    asked = inputs["input_ids"][0, seen.layout.question[start:stop]]
    assert asked.tolist()[-3:] == [50, 51, 52]
