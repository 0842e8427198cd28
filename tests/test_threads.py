"""Threads that share a model inside one `pruned`: each has its own forward, and answers as if it were alone."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from prunevid_qwen.adapters.seams import cache_of
from prunevid_qwen.adapters.vision import vision_from_memory
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.errors import UnsupportedError
from prunevid_qwen.forward.hooks import pruned
from prunevid_qwen.forward.plan import Plan
from prunevid_qwen.tokens.trace import Trace
from tests import glimpse
from tests.looking import LOOKING
from tests.models import CACHE, IMAGES, MIXED, ONE_VIDEO, RAGGED, make_inputs, tiny_model
from tests.test_keep_everything import KEEP
from tests.test_pruning_equals_masking import TINY

PROMPTS = [ONE_VIDEO, RAGGED, IMAGES, [[("text", 9)]]]
CONFIGS = {
    "paper": PruneVidConfig(**TINY),
    "without stage 1": PruneVidConfig(**TINY, enable_stage1=False),
    "without stage 3": PruneVidConfig(**TINY, enable_cache_compression=False),
    "keep everything": PruneVidConfig(**KEEP, position_scheme="hf"),
    "glimpse": glimpse.config(keep_threshold=None, keep_ratio=0.3),
    "evidence of each kind": Plan(LOOKING),
}
PATIENCE = 120  # seconds: a thread that failed leaves the others waiting, and they say so


def answer(model: Any, number: int) -> torch.Tensor:
    """Three tokens: as many forwards in every thread."""
    out = model.generate(
        **make_inputs(PROMPTS[number], seed=number), max_new_tokens=3, do_sample=False, return_dict_in_generate=True,
        output_logits=True,
    )  # fmt: skip
    return torch.stack(out.logits)


def about(trace: Trace) -> Any:
    parts = "vision", "merge", "select", "compact", "prefill", "decode"
    counts = {part: trace.seconds.count(part) for part in parts}
    return [(s.tokens, s.after_stage1, s.after_stage2) for s in trace.samples], trace.cache_lengths, counts


def in_step(
    model: Any, places: list[str], work: Callable[[int], Any], count: int, ends: tuple[str, ...] = ()
) -> list[Any]:
    """Run threads that wait for each other in each forward, where modules begin and end: the worst order, each time."""
    barrier, got = threading.Barrier(count), [None] * count

    def wait(*_given: Any) -> None:
        barrier.wait(PATIENCE)

    handles = [model.get_submodule(place).register_forward_pre_hook(wait) for place in places]
    handles += [model.get_submodule(place).register_forward_hook(wait) for place in ends]

    def run(number: int) -> None:
        try:
            got[number] = work(number)
        except Exception as error:  # whatever it is, the test shows it
            got[number] = error
            barrier.abort()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for handle in handles:
        handle.remove()
    return got


@pytest.mark.parametrize("name", CONFIGS)
def test_each_thread_answers_as_if_it_were_alone(name: str) -> None:
    config, model = CONFIGS[name], copy.deepcopy(tiny_model())
    wanted, told = [], []
    for number in range(len(PROMPTS)):
        with pruned(tiny_model(), config) as trace:
            wanted.append(answer(tiny_model(), number))
        told.append(about(trace))
    places = ["model.language_model", *(f"model.language_model.layers.{n}" for n in (0, 2, 3, 5))]
    with pruned(model, config) as trace:
        got = in_step(model, places, lambda n: (answer(model, n), about(trace)), len(PROMPTS))
        assert trace.prefills == len(PROMPTS)
    for number, result in enumerate(got):
        assert isinstance(result, tuple), result
        assert torch.equal(result[0], wanted[number])
        assert result[1] == told[number], "a thread's trace tells of another's prompt"
    assert about(trace) in told, "a thread without a prompt reads of the last one"


def test_whose_prompt_a_thread_reads_of() -> None:
    """One thread opened the block, and read of others' prompts before there were threads that did so of their own."""
    config, told = CONFIGS["paper"], []
    for number in range(3):
        with pruned(tiny_model(), config) as trace:
            answer(tiny_model(), number)
        told.append(about(trace))
    with pruned(tiny_model(), config) as trace, ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        answer(tiny_model(), 0)
        assert one.submit(about, trace).result() == told[0]
        one.submit(answer, tiny_model(), 1).result()  # as behind a TextIteratorStreamer
        assert about(trace) == other.submit(about, trace).result() == told[1]
        other.submit(answer, tiny_model(), 2).result()
        assert [one.submit(about, trace).result(), other.submit(about, trace).result()] == told[1:]
        assert about(trace) == told[2]
        answer(tiny_model(), 0)
        assert about(trace) == told[0]
        assert [one.submit(about, trace).result(), other.submit(about, trace).result()] == told[1:]


def test_threads_in_the_vision_tower_do_not_exchange_what_was_seen_there() -> None:
    config, model = CONFIGS["glimpse"], copy.deepcopy(tiny_model())
    wanted = []
    for number in range(2):
        with pruned(tiny_model(), config):
            wanted.append(answer(tiny_model(), number))
    with pruned(model, config):
        places = ["model.visual.blocks.0", "model.visual.merger"]
        got = in_step(model, places, lambda n: answer(model, n), 2, ends=("model.visual",))
    assert all(isinstance(each, torch.Tensor) for each in got), got
    assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))


def test_videos_that_two_threads_encode_ahead_are_not_taken_for_each_other() -> None:
    model, config = copy.deepcopy(tiny_model()), CONFIGS["paper"]
    prompts, wanted = [make_inputs(ONE_VIDEO, seed=seed) for seed in range(2)], []
    for prompt in prompts:
        with pruned(tiny_model(), config):
            wanted.append(tiny_model().generate(**prompt, max_new_tokens=3, do_sample=False))
    with pruned(model, config), torch.no_grad(), vision_from_memory(model.model.visual) as videos:
        made = [videos.encode(each["pixel_values_videos"], each["video_grid_thw"]) for each in prompts]

        class Meanwhile(list):  # type: ignore[type-arg]
            def append(self, features: Any) -> None:
                """Let another thread come first."""
                self.extend((made[1], features))

        videos.features = Meanwhile()
        given = [{**prompts[0], "pixel_values_videos": videos.hold(made[0])}]
        videos.features = list(videos.features)
        given.append({**prompts[1], "pixel_values_videos": videos.hold(made[1])})
        got = in_step(model, ["model.language_model"], lambda n: model.generate(
            **given[n], max_new_tokens=3, do_sample=False
        ), 2)  # fmt: skip
    assert all(isinstance(each, torch.Tensor) for each in got), got
    assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))


def test_a_conversation_may_go_on_in_another_thread() -> None:
    """As in a server that hands each step to any of its workers."""
    inputs, config = make_inputs(MIXED[:1]), CONFIGS["paper"]
    with torch.no_grad(), pruned(tiny_model(), config) as trace:
        out = tiny_model()(**inputs)
        cache, following = cache_of(out), out.logits[:, -1].argmax(-1, keepdim=True)
        alone = tiny_model()(input_ids=following, **{CACHE: copy.deepcopy(cache)}).logits
        found: list[torch.Tensor] = []

        def go_on() -> None:
            with torch.no_grad():
                found.append(tiny_model()(input_ids=following, **{CACHE: cache}).logits)

        thread = threading.Thread(target=go_on)
        thread.start()
        thread.join()
    assert torch.equal(found[0], alone)
    assert trace.prefills == 1, "a step of decoding is taken for a prompt"
    assert trace.seconds.count("decode") == 2


@pytest.mark.parametrize("place", ["", ".layers.0", ".layers.3"])
@pytest.mark.parametrize("config", ["paper", "without stage 1", "without stage 3"])
def test_a_block_that_is_left_during_a_call_spoils_no_answer(config: str, place: str) -> None:
    """As by a consumer that stops reading while a thread still writes: that thread is told."""
    model, inside, left = copy.deepcopy(tiny_model()), threading.Event(), threading.Event()
    got: list[Any] = []

    def wait(*_given: Any) -> None:
        inside.set()
        assert left.wait(PATIENCE)

    def work() -> None:
        try:
            got.append(answer(model, 1))
        except Exception as error:  # whatever it is, the test shows it
            got.append(error)

    thread = threading.Thread(target=work)
    with pruned(model, CONFIGS[config]):
        model.get_submodule(f"model.language_model{place}").register_forward_pre_hook(wait)
        thread.start()
        assert inside.wait(PATIENCE)
    left.set()
    thread.join()
    assert isinstance(got[0], UnsupportedError), got
