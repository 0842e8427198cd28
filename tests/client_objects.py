"""Clients with loops, caches and threads of their own, and what they do with the model as an object."""

from __future__ import annotations

import copy
import functools
import io
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from prunevid_qwen.adapters.seams import cache_of
from tests.client_calls import ALL, CALLS, EVERY, PROMPTS, SHOWN, Call, Noted, same
from tests.models import CACHE, ONE_VIDEO, VOCAB, make_inputs
from tests.patience import PATIENCE

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
