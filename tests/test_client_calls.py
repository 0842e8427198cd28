"""What clients do with a model, done inside `pruned`: kinds of calls x prompts x configs, each beside the stock model.

With everything kept nothing differs from stock, bit for bit. While pruning there is an answer whose receipt shows fewer
tokens, or an error of our own: `REFUSED` is the one table of those, and a call that is not in it may not be refused.
Where the stock model itself fails, so may we, with its error or one of ours.
"""

from __future__ import annotations

import copy
import functools
import io
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from transformers import (
    DynamicCache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StaticCache,
    StoppingCriteria,
    StoppingCriteriaList,
)

from prunevid_qwen import PruneVidConfig, PruneVidError, UnsupportedError, get_paper_config, pruned
from prunevid_qwen.adapters import adapter_for
from prunevid_qwen.adapters.seams import cache_of
from prunevid_qwen.adapters.tiny import tiny_model as fresh_model
from tests.models import CACHE, IMAGES, MIXED, ONE_VIDEO, PAD, RAGGED, VIDEO, VOCAB, make_inputs, tiny_model
from tests.patience import PATIENCE

CONFIGS = {
    "kept_by_stage_2": PruneVidConfig(enable_stage1=False, keep_ratio=1.0, pruning_layer=0, position_scheme="hf"),
    "kept_by_all": PruneVidConfig(
        tau=1.0, cluster_ratio=1.0, keep_ratio=1.0, pruning_layer=1, position_scheme="hf", min_cluster_tokens=1
    ),
    "paper": get_paper_config().replace(pruning_layer=1, min_cluster_tokens=1),
}
PROMPTS = {
    "one_video": ONE_VIDEO, "ragged": RAGGED, "mixed": MIXED, "images": IMAGES,
    "text": [[("text", 9)], [("text", 5)]],
}  # fmt: skip
TOKENS = 5
ALL = {"return_dict_in_generate": True, "output_logits": True, "output_scores": True}

# what may be refused, under every config, where a prompt shows something: README says why
REFUSED: dict[str, type[PruneVidError]] = dict.fromkeys(
    [
        "cache static", "cache sliding_window", "own static cache", "without a cache", "prefill in chunks",
        "assisted by itself", "forward with embeddings and pixels", "forward without types",
        "training with checkpointing",
    ],
    UnsupportedError,
)  # fmt: skip


@dataclass(frozen=True)
class Call:
    """One thing that a client does.

    Args:
        run: does it, with what ``before`` made of the model, and returns whatever can be compared.
        before: what is done before the block is entered.
        after: what is done with the outcome once the block is left; compared too.
        prompts: of which it is done; None where it brings its own.
        attention: of the model.
    """

    run: Callable[..., Any]
    before: Callable[[Any], Any] = lambda model: model
    after: Callable[[Any], Any] = lambda _out: None
    prompts: tuple[str, ...] | None = None
    attention: str = "sdpa"


CALLS: dict[str, Call] = {}
EVERY, SINGLE, SHOWN = tuple(PROMPTS), ("one_video", "images"), ("one_video", "ragged", "mixed", "images")


# ---- ways of generating, with every prompt


class Shortest(StoppingCriteria):
    """Ends all rows after three tokens, and notes how long they were."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def __call__(self, ids: torch.Tensor, _scores: Any, **_: Any) -> torch.Tensor:
        self.seen.append(ids.shape[1])
        return torch.full((len(ids),), len(self.seen) == 3)


class Tilted(LogitsProcessor):
    """Wants other tokens the longer the text is, as it sees it."""

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores + torch.linspace(0, 1, scores.shape[-1]) * (ids.shape[1] % 5) + ids.sum(-1, keepdim=True) % 7


class Noted:
    """A streamer that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[torch.Tensor] = []

    def put(self, value: torch.Tensor) -> None:
        self.told.append(value.clone())

    def end(self) -> None:
        self.told.append(torch.tensor(-1))


def asked(**given: Any) -> Callable[[Any], dict[str, Any]]:
    return lambda _model: given


def others(model: Any) -> Any:
    return fresh_model("qwen2_5_vl", layers=3)


WAYS: dict[str, tuple[Callable[[Any], dict[str, Any]], tuple[str, ...]]] = {
    "greedy": (asked(), EVERY),
    "with states": (asked(output_hidden_states=True), EVERY),
    "sampling": (asked(do_sample=True, temperature=0.9, top_p=0.9, top_k=40, num_return_sequences=2), EVERY),
    "typical sampling": (asked(do_sample=True, min_p=0.01, typical_p=0.9, epsilon_cutoff=1e-4), EVERY),
    "beams": (asked(num_beams=3, num_return_sequences=2), EVERY),
    "sampled beams": (asked(num_beams=3, do_sample=True), EVERY),
    "beams that stop": (
        asked(num_beams=3, early_stopping=True, length_penalty=2.0, eos_token_id=list(range(10, 60))), EVERY,
    ),
    "penalties": (
        asked(repetition_penalty=1.3, no_repeat_ngram_size=2, bad_words_ids=[[50, 51], [60]], suppress_tokens=[80],
              encoder_repetition_penalty=1.2, sequence_bias={(70,): 3.0}, renormalize_logits=True), EVERY,
    ),
    "least length": (asked(min_new_tokens=4, eos_token_id=list(range(200))), EVERY),
    "stopped": (lambda _model: {"stopping_criteria": StoppingCriteriaList([Shortest()])}, EVERY),
    "processed": (lambda _model: {"logits_processor": LogitsProcessorList([Tilted()])}, EVERY),
    "prefixes": (asked(num_beams=2, prefix_allowed_tokens_fn=lambda row, ids: [10 + len(ids) % 50, 70 + row]), EVERY),
    "settings": (
        asked(max_new_tokens=None, generation_config=GenerationConfig(
            max_new_tokens=4, num_beams=2, return_dict_in_generate=True, output_scores=True, pad_token_id=PAD,
            eos_token_id=VOCAB)), EVERY,
    ),
    "prompt lookup": (asked(prompt_lookup_num_tokens=3), (*SINGLE, "ragged")),
    "assisted": (lambda model: {"assistant_model": others(model)}, SINGLE),
    "assisted sampling": (lambda model: {"assistant_model": others(model), "do_sample": True}, SINGLE),
    "assisted by its own weights": (lambda _model: {"assistant_model": fresh_model("qwen2_5_vl")}, SINGLE),
    "assisted by itself": (lambda model: {"assistant_model": model}, SINGLE),
    "early exit": (asked(assistant_early_exit=3), SINGLE),
    "early exit before M": (asked(assistant_early_exit=1), SINGLE),
    "guided": (asked(guidance_scale=1.5), ("one_video", "text")),
    "guided by another text": (
        asked(guidance_scale=1.5, negative_prompt_ids=torch.arange(20, 29)[None]), ("one_video",),
    ),
    "own cache": (lambda model: {CACHE: DynamicCache(config=model.config.get_text_config())}, EVERY),
    "own bare cache": (lambda _model: {CACHE: DynamicCache()}, EVERY),
    "own static cache": (
        lambda model: {CACHE: StaticCache(config=model.config.get_text_config(), max_cache_len=256)},
        ("one_video", "text"),
    ),
    "without a cache": (asked(use_cache=False), ("one_video", "text")),
    "prefill in chunks": (asked(prefill_chunk_size=16), ("one_video", "text")),
    **{
        f"cache {kind}": (asked(cache_implementation=kind), ("ragged", "text"))
        for kind in ("dynamic", "dynamic_full", "static", "offloaded", "offloaded_static", "sliding_window", "hybrid",
                     "offloaded_hybrid", "quantized")
    },
}  # fmt: skip


def generated(way: str) -> Callable[..., Any]:
    def run(model: Any, samples: Any) -> Any:
        torch.manual_seed(3)
        given = {"max_new_tokens": TOKENS, "do_sample": False, **ALL, **WAYS[way][0](model)}
        if "generation_config" in given:
            given = {k: v for k, v in given.items() if k in ("generation_config",)}
        out = model.generate(**make_inputs(samples), **given)
        stopping = [each.seen for each in given.get("stopping_criteria", [])]
        return out, stopping, cache_of(given)

    return run


CALLS |= {way: Call(generated(way), prompts=prompts) for way, (_, prompts) in WAYS.items()}


# ---- forwards


def forward(**given: Any) -> Callable[..., Any]:
    def run(model: Any, samples: Any) -> Any:
        with torch.no_grad():
            return model(**make_inputs(samples), **given)

    return run


def labels_of(inputs: dict[str, Any]) -> torch.Tensor:
    labels: torch.Tensor = inputs["input_ids"].clone()
    labels[:, :-3] = -100
    return labels


def changed(change: Callable[[Any, dict[str, Any]], Any], **more: Any) -> Callable[..., Any]:
    """A forward whose inputs were changed in place, or replaced by what ``change`` returns."""

    def run(model: Any, samples: Any) -> Any:
        inputs = make_inputs(samples)
        inputs = change(model, inputs) or inputs
        with torch.no_grad():
            return model(**inputs, **more)

    return run


def as_bool(_model: Any, inputs: dict[str, Any]) -> None:
    inputs["attention_mask"] = inputs["attention_mask"].bool()


def without(name: str) -> Callable[[Any, dict[str, Any]], None]:
    def drop(_model: Any, inputs: dict[str, Any]) -> None:
        inputs.pop(name, None)

    return drop


def prepared_mask(_model: Any, inputs: dict[str, Any]) -> None:
    size = inputs["input_ids"].shape[1]
    inputs["attention_mask"] = torch.full((size, size), torch.finfo(torch.float32).min).triu(1)[None, None]


def own_positions(model: Any, inputs: dict[str, Any]) -> None:
    names = ("video_grid_thw", "image_grid_thw", "second_per_grid_ts", "attention_mask", "mm_token_type_ids")
    given = {name: inputs[name] for name in names if name in inputs}
    inputs["position_ids"] = model.model.get_rope_index(inputs["input_ids"], **given)[0]


def prepared_mask_and_positions(model: Any, inputs: dict[str, Any]) -> None:
    own_positions(model, inputs)
    prepared_mask(model, inputs)


def embedded(model: Any, inputs: dict[str, Any]) -> None:
    inputs["inputs_embeds"] = model.get_input_embeddings()(inputs.pop("input_ids"))


def to_the_right(_model: Any, inputs: dict[str, Any]) -> None:
    pads = (inputs["attention_mask"] == 0).sum(1).tolist()
    for name in ("input_ids", "attention_mask", "mm_token_type_ids"):
        inputs[name] = torch.stack([row.roll(-pad) for row, pad in zip(inputs[name], pads, strict=True)])


def real_columns(model: Any, samples: Any) -> Any:
    """Padding has no answer: what stands there is nobody's."""
    out = changed(to_the_right)(model, samples).logits
    return [row[: int(mask.sum())] for row, mask in zip(out, make_inputs(samples)["attention_mask"], strict=True)]


def trained(checkpointing: bool = False, **given: Any) -> Callable[..., Any]:
    def run(model: Any, samples: Any) -> Any:
        model.train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        inputs = make_inputs(samples)
        out = model(**inputs, labels=labels_of(inputs), **given)
        out.loss.backward()
        return out.loss.detach(), [w.grad for w in model.parameters() if w.grad is not None]

    return run


def labelled(model: Any, samples: Any, **given: Any) -> Any:
    inputs = make_inputs(samples)
    with torch.no_grad():
        out = model(**inputs, labels=labels_of(inputs), **given)
    return out.loss, out.logits


def last_positions(model: Any, samples: Any) -> Any:
    inputs = make_inputs(samples)
    size = inputs["input_ids"].shape[1]
    with torch.no_grad():
        return model(**inputs, logits_to_keep=torch.arange(size - 3, size)).logits


CALLS |= {
    "forward": Call(forward(), prompts=EVERY),
    "forward with states": Call(forward(output_hidden_states=True), prompts=EVERY),
    "forward with attentions": Call(forward(output_attentions=True), prompts=EVERY, attention="eager"),
    "forward as a tuple": Call(forward(return_dict=False), prompts=EVERY),
    "forward with logits to keep": Call(forward(logits_to_keep=2), prompts=EVERY),
    "forward with a tensor of logits to keep": Call(last_positions, prompts=EVERY),
    "forward without a cache": Call(forward(use_cache=False), prompts=EVERY),
    "forward with labels": Call(labelled, prompts=EVERY),
    "forward with labels and logits to keep": Call(functools.partial(labelled, logits_to_keep=4), prompts=EVERY),
    "forward with a mask of bools": Call(changed(as_bool), prompts=EVERY),
    "forward without a mask": Call(changed(without("attention_mask")), prompts=(*SINGLE, "text")),
    "forward with a prepared mask": Call(changed(prepared_mask), prompts=SINGLE),
    "forward with a prepared mask and positions": Call(changed(prepared_mask_and_positions), prompts=SINGLE),
    "forward without types": Call(changed(without("mm_token_type_ids")), prompts=EVERY),
    "forward without seconds": Call(changed(without("second_per_grid_ts")), prompts=EVERY),
    "forward with own positions": Call(changed(own_positions), prompts=SHOWN),
    "forward with embeddings and pixels": Call(changed(embedded), prompts=SHOWN),
    "forward of embedded text": Call(changed(embedded), prompts=("text",)),
    "forward padded on the right": Call(real_columns, prompts=EVERY),
    "forward with a list of logits to keep": Call(forward(logits_to_keep=[-2, -1]), prompts=EVERY),
    "forward without a cache, with logits to keep": Call(forward(use_cache=False, logits_to_keep=3), prompts=EVERY),
    "training": Call(trained(), prompts=EVERY),
    "training without a cache": Call(trained(use_cache=False), prompts=EVERY),
    "training with checkpointing": Call(trained(checkpointing=True, use_cache=False), prompts=EVERY),
}


@torch.no_grad()
def answered_in_training(model: Any, samples: Any) -> Any:
    """As for rewards."""
    model.train().gradient_checkpointing_enable()
    return model.generate(**make_inputs(samples), max_new_tokens=3, do_sample=False)


CALLS["answered in training, with checkpointing"] = Call(answered_in_training, prompts=EVERY)


# ---- loops, continuations, caches


def call(name: str, **given: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def register(run: Callable[..., Any]) -> Callable[..., Any]:
        CALLS[name] = Call(run, **given)
        return run

    return register


@torch.no_grad()
def looped(model: Any, samples: Any, with_mask: bool) -> Any:
    inputs, steps = make_inputs(samples), []
    mask = inputs["attention_mask"]
    out = model(**inputs, use_cache=True)
    for _ in range(4):
        token = out.logits[:, -1:].argmax(-1)
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        given = {"attention_mask": mask} if with_mask else {}
        out = model(input_ids=token, **given, **{CACHE: cache_of(out)}, use_cache=True)
        steps.append(out.logits)
    return steps


CALLS["a loop by hand"] = Call(functools.partial(looped, with_mask=True), prompts=EVERY)
CALLS["a loop by hand without a mask"] = Call(functools.partial(looped, with_mask=False), prompts=("one_video",))

QUESTION = torch.randint(10, VOCAB, (1, 5), generator=torch.Generator().manual_seed(1))


def gone_on(model: Any, ids: torch.Tensor, cache: Any) -> Any:
    ids = torch.cat([ids, QUESTION.expand(len(ids), -1)], 1)
    return model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), **{CACHE: cache}, **ALL, max_new_tokens=3, do_sample=False
    )


@call("a text goes on", prompts=("one_video", "images"))
def _(model: Any, samples: Any) -> Any:
    first = model.generate(**make_inputs(samples), **ALL, max_new_tokens=3, do_sample=False)
    return first, gone_on(model, first.sequences, cache_of(first))


@call("an earlier turn is asked anew", prompts=("one_video",))
def _(model: Any, samples: Any) -> Any:
    inputs = make_inputs(samples)
    first = model.generate(**inputs, **ALL, max_new_tokens=3, do_sample=False)
    cache_of(first).crop(
        inputs["input_ids"].shape[1] + 1 - first.sequences.shape[1]
    )  # what was generated, but the last
    return gone_on(model, inputs["input_ids"], cache_of(first))


@call("several go on from one prompt", prompts=("one_video", "images"))
def _(model: Any, samples: Any) -> Any:
    inputs = make_inputs(samples)
    with torch.no_grad():
        cache = cache_of(model(**inputs, use_cache=True))
    return [gone_on(model, inputs["input_ids"], copy.deepcopy(cache)) for _ in range(2)]


@call("a text between two videos")
def _(model: Any) -> Any:
    plain = {"max_new_tokens": 3, "do_sample": False}
    return [model.generate(**make_inputs(PROMPTS[name]), **plain) for name in ("ragged", "text", "one_video", "ragged")]


@call("embedded text is generated from")
def _(model: Any) -> Any:
    embeds = model.get_input_embeddings()(make_inputs([[("text", 9)]])["input_ids"]).detach()
    return model.generate(inputs_embeds=embeds, max_new_tokens=3, do_sample=False)


@call("streamed", prompts=("one_video", "images", "text"))
def _(model: Any, samples: Any) -> Any:
    streamer = Noted()
    first = {name: value[:1] if name in TEXT else value for name, value in make_inputs(samples).items()}
    return model.generate(**first, streamer=streamer, max_new_tokens=4, do_sample=False), streamer.told


TEXT = ("input_ids", "attention_mask", "mm_token_type_ids")


@call("scores of the transitions", prompts=EVERY)
def _(model: Any, samples: Any) -> Any:
    out = model.generate(**make_inputs(samples), max_new_tokens=4, num_beams=3, **ALL)
    return model.compute_transition_scores(out.sequences, out.scores, out.beam_indices)


# ---- threads


def in_threads(work: list[Callable[[], Any]]) -> list[Any]:
    """Do all of it at once; the first error is raised here."""
    done: dict[int, Any] = {}

    def go(number: int) -> None:
        try:
            done[number] = work[number]()
        except BaseException as error:
            done[number] = error

    threads = [threading.Thread(target=go, args=(number,), daemon=True) for number in range(len(work))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    for outcome in done.values():
        if isinstance(outcome, BaseException):
            raise outcome
    assert len(done) == len(work), "a thread never came back"
    return [done[number] for number in range(len(work))]


@call("in another thread", prompts=EVERY)
def _(model: Any, samples: Any) -> Any:
    return in_threads([lambda: model.generate(**make_inputs(samples), max_new_tokens=4, do_sample=False)])


@call("three threads")
def _(model: Any) -> Any:
    """Each answer is the one that its prompt gets alone: compared with stock where nothing is pruned, and here."""

    def one(name: str) -> Any:
        return model.generate(**make_inputs(PROMPTS[name]), max_new_tokens=4, do_sample=False)

    names = ("ragged", "one_video", "images")
    alone = [one(name) for name in names]
    together = in_threads([lambda name=name: [one(name) for _ in range(3)] for name in names])  # type: ignore[misc]
    assert all(same(each, wanted) for answers, wanted in zip(together, alone, strict=True) for each in answers)
    return together


# ---- the model as an object


@call("deep-copied inside", prompts=SHOWN)
def _(model: Any, samples: Any) -> Any:
    return copy.deepcopy(model).generate(**make_inputs(samples), max_new_tokens=3, do_sample=False)


@call("stored whole inside", prompts=SHOWN)
def _(model: Any, samples: Any) -> Any:
    memory = io.BytesIO()
    torch.save(model, memory)
    memory.seek(0)
    return torch.load(memory, weights_only=False).generate(**make_inputs(samples), max_new_tokens=3, do_sample=False)


def used_outside(out: tuple[Any, Any]) -> Any:
    """A copy that was made inside is the stock model once the block is left."""
    return out[1].model.generate(**make_inputs(ONE_VIDEO), max_new_tokens=3, do_sample=False)


@dataclass(frozen=True)
class Carried:
    """A model that is handed on, and not compared."""

    model: Any

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, Carried)

    __hash__ = None  # type: ignore[assignment]


@call("deep-copied inside and used outside", after=used_outside)
def _(model: Any) -> Any:
    return model.generate(**make_inputs(ONE_VIDEO), max_new_tokens=3, do_sample=False), Carried(copy.deepcopy(model))


@call("saved inside", prompts=("one_video",))
def _(model: Any, samples: Any) -> Any:
    with TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        names = sorted(path.name for path in Path(folder).iterdir())
        other = type(model).from_pretrained(folder).eval()
    out = other.generate(**make_inputs(samples), max_new_tokens=3, do_sample=False)
    return out, names, sorted(model.state_dict())


@call("wider embeddings inside", prompts=("ragged",))
def _(model: Any, samples: Any) -> Any:
    model.resize_token_embeddings(VOCAB + 8, mean_resizing=False)
    late = list(range(VOCAB, VOCAB + 8))
    return model.generate(**make_inputs(samples), max_new_tokens=3, do_sample=False, suppress_tokens=late)


@call("another attention inside", prompts=SHOWN)
def _(model: Any, samples: Any) -> Any:
    model.set_attn_implementation("eager")
    return model.generate(**make_inputs(samples), max_new_tokens=3, do_sample=False)


# ---- what stands around a call


@call("bfloat16 inside", prompts=SHOWN)
def _(model: Any, samples: Any) -> Any:
    return model.to(torch.bfloat16).generate(**make_inputs(samples), max_new_tokens=3, do_sample=False)


@call("float64 inside", prompts=SHOWN)
def _(model: Any, samples: Any) -> Any:
    return model.double().generate(**make_inputs(samples), max_new_tokens=3, do_sample=False)


@call("autocast", prompts=EVERY)
def _(model: Any, samples: Any) -> Any:
    with torch.autocast("cpu", torch.bfloat16):
        return model.generate(**make_inputs(samples), max_new_tokens=3, do_sample=False)


@call("inference mode", prompts=EVERY)
def _(model: Any, samples: Any) -> Any:
    with torch.inference_mode():
        return model.generate(**make_inputs(samples), max_new_tokens=3, do_sample=False)


@call("another default dtype", prompts=EVERY)
def _(model: Any, samples: Any) -> Any:
    inputs, usual = make_inputs(samples), torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        return model.generate(**inputs, max_new_tokens=3, do_sample=False)
    finally:
        torch.set_default_dtype(usual)


def compiled(model: Any) -> tuple[Any, Any]:
    fast = torch.compile(model, backend="eager")
    with torch.no_grad():
        fast(**make_inputs(ONE_VIDEO))
    model.model.rope_deltas = None
    return model, fast


@call("compiled and called before", before=compiled)
def _(both: Any) -> Any:
    with torch.no_grad():
        return both[1](**make_inputs(ONE_VIDEO)).logits


def compiled_layers(model: Any) -> tuple[Any, Any]:
    for layer in model.model.language_model.layers:
        layer.compile(backend="eager")
    with torch.no_grad():
        model(**make_inputs(ONE_VIDEO))
    model.model.rope_deltas = None
    return model, model


@call("layers compiled and called before", before=compiled_layers)
def _(both: Any) -> Any:
    with torch.no_grad():
        return both[1](**make_inputs(ONE_VIDEO)).logits


@call("compiled inside")
def _(model: Any) -> Any:
    fast = torch.compile(model, backend="eager", dynamic=True)
    with torch.no_grad():
        return fast(**make_inputs(ONE_VIDEO)).logits


# ---- the comparison


def leaves(value: Any) -> Iterator[Any]:
    """Everything in an output that can be compared, in order; of a cache its keys and values."""
    if hasattr(value, "layers"):
        for layer in value.layers:
            yield from leaves([getattr(layer, "keys", None), getattr(layer, "values", None)])
    elif isinstance(value, dict):
        for each in value.values():
            yield from leaves(each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from leaves(each)
    elif value is not None:
        yield value


def same(one: Any, other: Any) -> bool:
    pairs = list(leaves(one)), list(leaves(other))
    return len(pairs[0]) == len(pairs[1]) and all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) else bool(a == b) for a, b in zip(*pairs, strict=True)
    )


def done(name: str, prompt: str | None, config: PruneVidConfig | None) -> tuple[Any, Any]:
    """Do a call with a model of its own; returns what came out, an error perhaps, and the trace."""
    what = CALLS[name]
    model = copy.deepcopy(tiny_model(what.attention))
    state = what.before(model)
    samples = () if prompt is None else (PROMPTS[prompt],)
    trace = None
    try:
        with nullcontext() if config is None else pruned(model, config) as trace:
            out = what.run(state, *samples)
        return (out, what.after(out)), trace
    except Exception as error:
        return error, trace


@functools.cache
def stock(name: str, prompt: str | None) -> Any:
    return done(name, prompt, None)[0]


# where another model, or this one with a text, was the last to run: the trace says nothing of a video then
NOT_OF_THIS_MODEL = {
    "deep-copied inside", "stored whole inside", "saved inside", "guided", "guided by another text",
    "embedded text is generated from",
}  # fmt: skip

FAST = {
    ("greedy", "ragged"), ("beams", "mixed"), ("sampling", "one_video"), ("a text goes on", "one_video"),
    ("a loop by hand", "ragged"), ("cache static", "ragged"), ("streamed", "one_video"),
    ("forward with states", "mixed"),
}  # fmt: skip


def members() -> Iterator[Any]:
    for name, what in CALLS.items():
        for prompt in what.prompts or (None,):
            for config in CONFIGS:
                marks = () if (name, prompt) in FAST else pytest.mark.nightly
                yield pytest.param(name, prompt, config, id=f"{name}-{prompt}-{config}", marks=marks)


@pytest.mark.parametrize(("name", "prompt", "config"), list(members()))
def test_a_client_calls(name: str, prompt: str | None, config: str) -> None:
    wanted = stock(name, prompt)
    got, trace = done(name, prompt, CONFIGS[config])
    if isinstance(got, Exception):
        refused = name in REFUSED and prompt != "text" and isinstance(got, REFUSED[name])
        as_stock = isinstance(wanted, Exception) and isinstance(got, (PruneVidError, type(wanted)))
        if not (refused or as_stock):
            raise got
        return
    if isinstance(wanted, Exception):
        return
    if config != "paper":
        assert same(got, wanted)
    elif prompt != "text" and name not in NOT_OF_THIS_MODEL:
        shown = [sample for sample in trace.samples if sample.tokens]
        assert shown and all(sample.after_stage2 < sample.tokens for sample in shown)


def test_a_copy_made_while_pruning_is_the_stock_model_outside() -> None:
    (_, stock_outside), _ = done("deep-copied inside and used outside", None, None)
    (_, outside), _ = done("deep-copied inside and used outside", None, CONFIGS["paper"])
    assert torch.equal(outside, stock_outside)


def test_a_placeholder_among_candidates_is_text() -> None:
    """Assisted decoding may guess one behind the prompt; stock reads it as the token that it is."""
    model, inputs = tiny_model(), make_inputs(ONE_VIDEO)
    adapter, ids = adapter_for(model), inputs["input_ids"][0]
    positions = model.model.get_rope_index(**{k: v for k, v in inputs.items() if k != "pixel_values_videos"})[0][:, 0]
    more = torch.tensor([20, VIDEO, VIDEO])
    places = torch.cat([positions, positions.max() + 1 + torch.arange(3).expand(3, -1)], 1)
    alone = adapter.layout(ids, positions, len(ids))
    guessed = adapter.layout(torch.cat([ids, more]), places, len(ids))
    assert alone is not None and guessed is not None
    assert guessed.blocks == alone.blocks and torch.equal(guessed.question, alone.question)


def test_the_table_names_calls() -> None:
    assert set(REFUSED) <= set(CALLS) and {name for name, _ in FAST} | NOT_OF_THIS_MODEL <= set(CALLS)
