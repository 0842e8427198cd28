"""`pruned` leaves no trace on the model, also after errors; state never leaks between prompts or models."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import threading
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from prunevid_qwen.adapters.seams import cache_of
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.errors import ConfigError, PruningNotApplied, UnsupportedError
from prunevid_qwen.forward.hooks import pruned
from prunevid_qwen.forward.plan import Plan, Step
from prunevid_qwen.receipt import check_applied
from prunevid_qwen.reducer import Needs
from prunevid_qwen.tokens import Block, TokenMap
from prunevid_qwen.tokens.trace import DOOR, Reduction, SampleTrace
from tests.models import CACHE, ONE_VIDEO, RAGGED, make_inputs, tiny_model
from tests.test_pruning_equals_masking import TINY
from tests.tolerances import close

CONFIG = PruneVidConfig(**TINY)
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs",
         "_forward_hooks_always_called")  # fmt: skip


def state(model: Any) -> list[tuple[str, list[str], list[int]]]:
    """Names of all attributes and numbers of all hooks, of every module. `rope_deltas` is the library's own scratch."""
    return [
        (name, sorted(set(vars(module)) - {"rope_deltas"}), [len(getattr(module, kind)) for kind in HOOKS])
        for name, module in model.named_modules()
    ]


def stock(model: Any) -> torch.Tensor:
    out: torch.Tensor = model.generate(**make_inputs(RAGGED), max_new_tokens=4, do_sample=False)
    return out


class Stop:
    """A streamer that raises at its third token."""

    def __init__(self, error: BaseException) -> None:
        self.error, self.left = error, 3

    def put(self, _value: torch.Tensor) -> None:
        self.left -= 1
        if not self.left:
            raise self.error

    def end(self) -> None:
        pass


def test_the_model_is_as_before() -> None:
    model = tiny_model()
    before, answer = state(model), stock(model)
    with pruned(model, CONFIG):
        assert state(model) != before, "the check sees nothing"
        stock(model)
    assert state(model) == before
    assert torch.equal(stock(model), answer)


@pytest.mark.parametrize("error", [RuntimeError("boom"), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_also_after_an_exception_in_a_stream(error: BaseException) -> None:
    model = tiny_model()
    before, answer = state(model), stock(model)
    with pruned(model, CONFIG):
        wanted = model.generate(**make_inputs(ONE_VIDEO), max_new_tokens=5, do_sample=False)
        with pytest.raises(type(error)):
            model.generate(**make_inputs(ONE_VIDEO), max_new_tokens=5, do_sample=False, streamer=Stop(error))
        assert torch.equal(model.generate(**make_inputs(ONE_VIDEO), max_new_tokens=5, do_sample=False), wanted)
    with pytest.raises(type(error)), pruned(model, CONFIG):
        model.generate(**make_inputs(ONE_VIDEO), max_new_tokens=5, do_sample=False, streamer=Stop(error))
    assert state(model) == before
    assert torch.equal(stock(model), answer)


@pytest.mark.parametrize("error", [RuntimeError("boom"), KeyboardInterrupt("boom")], ids=["error", "interrupt"])
def test_an_error_inside_a_stage_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """An interrupt passes even the hooks that torch always calls."""
    model, text = tiny_model(), make_inputs([[("text", 9)], [("text", 5)]])
    before, plain = state(model), tiny_model().generate(**text, max_new_tokens=3, do_sample=False)

    def fail(*_args: Any) -> None:
        raise error

    with pruned(model, CONFIG):
        monkeypatch.setattr("prunevid_qwen.forward.attention.question_attention", fail)
        with pytest.raises(type(error), match="boom"):
            stock(model)
        monkeypatch.undo()
        assert torch.equal(model.generate(**text, max_new_tokens=3, do_sample=False), plain)
        wanted = stock(model)
    with pruned(model, CONFIG):
        assert torch.equal(stock(model), wanted)
    assert state(model) == before


def test_a_cache_is_closed_after_an_error_too() -> None:
    model = tiny_model()

    def fail(*_args: Any) -> None:
        raise RuntimeError("boom")

    with pruned(model, CONFIG), torch.no_grad():
        cache = cache_of(model(**make_inputs(ONE_VIDEO)))
        handle = model.model.language_model.norm.register_forward_pre_hook(fail)
        with pytest.raises(RuntimeError, match="boom"):
            model(input_ids=torch.tensor([[20]]), **{CACHE: cache})
        handle.remove()
    with pytest.raises(UnsupportedError, match="outside"), torch.no_grad():
        model(input_ids=torch.tensor([[20]]), **{CACHE: cache})


def test_an_error_in_the_vision_tower_leaves_the_next_prompt_alone() -> None:
    """As when memory runs out there, or the user interrupts: the tower has started and never stops."""
    model, broken = tiny_model(), make_inputs(RAGGED)
    broken["pixel_values_videos"] = broken["pixel_values_videos"][:, 1:]
    with pruned(model, CONFIG) as trace:
        wanted = stock(model)
        with pytest.raises(RuntimeError):
            model.generate(**broken, max_new_tokens=1)
        assert torch.equal(stock(model), wanted)
        assert trace.seconds.count("vision") == 1


def test_somebody_elses_get_rope_index_is_put_back() -> None:
    model = copy.deepcopy(tiny_model())
    own = model.model.get_rope_index
    model.model.get_rope_index = mine = lambda *args, **kwargs: own(*args, **kwargs)
    with pruned(model, CONFIG):
        assert model.model.get_rope_index is not mine
    assert model.model.get_rope_index is mine


def test_a_text_after_a_video_has_cache_lengths_of_its_own() -> None:
    with pruned(tiny_model(), CONFIG) as trace:
        stock(tiny_model())
        assert trace.cache_lengths
        tiny_model().generate(**make_inputs([[("text", 9)]]), max_new_tokens=1)
    assert trace.cache_lengths == (9,) * 6
    assert trace.cache_bytes == 2 * 6 * 9 * (2 * 16) * 4  # keys and values, layers, tokens, heads of 16, fp32


class Adapted(torch.nn.Module):
    """What peft does: the model is inside, its attributes are passed on."""

    def __init__(self, base: Any) -> None:
        super().__init__()
        self.base = base

    def get_base_model(self) -> Any:
        return self.base

    def generate(self, **given: Any) -> torch.Tensor:
        out: torch.Tensor = self.base.generate(**given)
        return out


def test_a_model_wrapped_by_peft() -> None:
    model = Adapted(tiny_model())
    with pruned(tiny_model(), CONFIG):
        wanted = stock(tiny_model())
    with pruned(model, CONFIG) as trace:
        assert torch.equal(stock(model), wanted)
    assert trace.samples[0].after_stage2 < trace.samples[0].tokens


def test_nesting_is_refused_and_harmless() -> None:
    model = tiny_model()
    with pruned(model, CONFIG):
        during = state(model)
        with pytest.raises(UnsupportedError, match="already"), pruned(model, CONFIG):
            pass
        assert state(model) == during
    with pruned(model, CONFIG):  # and free again
        pass


def test_two_contexts_after_each_other_equal_one() -> None:
    model = tiny_model()
    with pruned(model, CONFIG) as trace:
        first, second = stock(model), stock(model)
        assert trace.prefills == 2
    with pruned(model, CONFIG):
        third = stock(model)
    assert torch.equal(first, second)
    assert torch.equal(first, third)


def test_two_threads_with_two_models() -> None:
    models = [copy.deepcopy(tiny_model()), copy.deepcopy(tiny_model())]
    configs = [CONFIG, CONFIG.replace(keep_ratio=0.2)]
    wanted, got = [], [None, None]
    for config in configs:
        with pruned(tiny_model(), config):
            wanted.append(stock(tiny_model()))
    start = threading.Barrier(2)

    def work(i: int) -> None:
        start.wait()
        for _ in range(3):
            with pruned(models[i], configs[i]):
                got[i] = stock(models[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))


SECOND_PROMPT = """
import json, torch
from prunevid_qwen.forward.hooks import pruned
from prunevid_qwen.receipt import check_applied
from tests.models import MIXED, make_inputs, tiny_model
from tests.test_context import CONFIG
torch.set_num_threads(1)
model = tiny_model()
with pruned(model, CONFIG):
    {before}
    out = model.generate(**make_inputs(MIXED, seed=5), max_new_tokens=4, do_sample=False, return_dict_in_generate=True,
                         output_logits=True)
print(json.dumps([torch.stack(out.logits).tolist(), out.sequences[:, -4:].tolist()]))
"""


def test_two_prompts_in_a_row_equal_two_processes() -> None:
    """The second prompt of one process is the only prompt of another."""
    first = "model.generate(**make_inputs(MIXED, seed=4), max_new_tokens=4, do_sample=False)"
    running = [
        subprocess.Popen([sys.executable, "-c", SECOND_PROMPT.format(before=before)], stdout=subprocess.PIPE, text=True)
        for before in (first, "pass")
    ]
    printed = [process.communicate()[0] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    (second, ids), (only, wanted) = (json.loads(each) for each in printed)
    close(torch.tensor(second), torch.tensor(only))
    assert ids == wanted


def test_a_layer_beyond_the_model_names_the_share() -> None:
    with (
        pytest.raises(ConfigError, match=r"pruning_layer=10.*6 layers.*0\.36"),
        pruned(tiny_model(), PruneVidConfig(pruning_layer=10)),
    ):
        pass


def test_unknown_families_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="qwen2_5_vl"), pruned(torch.nn.Linear(2, 2), CONFIG):
        pass


def test_a_model_without_its_head_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="ForConditionalGeneration"), pruned(tiny_model().model, CONFIG):
        pass


def test_static_ratio_counts_the_cells_merged_over_time() -> None:
    """Two positions of two cells: the left one stands still, the right one is kept twice; an image is never static."""
    blocks = (Block("video", (2, 1, 2), 0, 4), Block("image", (1, 1, 2), 4, 6))
    merged = TokenMap(torch.tensor([0, 1, 0, 2, 3, 3]), torch.tensor([0, 1, 3, 4]))
    assert SampleTrace(blocks, 6, 9, (Reduction(DOOR, "", merged),)).static_ratio == 2 / 6


def test_tensor_parallel_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(tiny_model()), "tp_size", 2, raising=False)
    with pytest.raises(UnsupportedError, match="tensor parallel"), pruned(tiny_model(), CONFIG):
        pass


def test_a_layer_that_never_runs_its_hooks_is_an_error_not_a_silent_baseline(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a replaced or compiled layer skips module hooks."""
    model = tiny_model()
    layer = model.model.language_model.layers[TINY["pruning_layer"]]
    with pruned(model, CONFIG):
        for handle in list(layer._forward_hooks):
            del layer._forward_hooks[handle]
        with pytest.raises(PruningNotApplied, match="layer 2"):
            stock(model)


NOTHING = Needs()


@dataclass(frozen=True)
class Merges:
    """A selector that merges, which a cache of rotated keys cannot follow."""

    needs: Needs = NOTHING

    def plan(self, seen: Any) -> TokenMap:
        zero = torch.zeros_like(seen.layout.visual)
        return TokenMap(zero, zero[:1])


def test_merging_inside_the_decoder_is_refused() -> None:
    with pruned(tiny_model(), Plan((Step(2, Merges()),))), pytest.raises(UnsupportedError, match="may only drop"):
        tiny_model().generate(**make_inputs(ONE_VIDEO), max_new_tokens=1)


@pytest.mark.parametrize("selector", ["prunevid", "dpp", "fastv", "random", "uniform"])
def test_every_selector_runs_in_a_model(selector: str) -> None:
    config = CONFIG.replace(selector=selector)
    with pruned(tiny_model(), config) as trace:
        stock(tiny_model())
    for sample in trace.samples:
        expected = sum(max(1, int(n * config.keep_ratio)) for n in _block_sizes(sample))
        assert sample.after_stage2 == expected


@pytest.mark.parametrize("merger", ["pool", "random", "uniform"])
def test_every_control_merger_runs_in_a_model(merger: str) -> None:
    with pruned(tiny_model(), CONFIG.replace(merger=merger)) as trace:
        stock(tiny_model())
    check_applied(trace, CONFIG.replace(merger=merger))
    for sample in trace.samples:
        videos = [b for b in sample.blocks if b.kind == "video"]
        expected = sample.tokens - sum(
            b.stop - b.start - int((b.stop - b.start) * CONFIG.cluster_ratio) for b in videos
        )
        assert sample.after_stage1 == expected


def _block_sizes(sample: Any) -> list[int]:
    return [int(((sample.merged.rep >= b.start) & (sample.merged.rep < b.stop)).sum()) for b in sample.blocks]
