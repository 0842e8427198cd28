"""Models that were compiled and called before the block run uncompiled inside it, and are pruned."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from torch import Tensor

from prunevid_qwen.adapters import adapter_for, tiny
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.errors import UnsupportedError
from prunevid_qwen.forward.hooks import pruned
from tests.models import ONE_VIDEO, make_inputs, tiny_model

PAPER = PruneVidConfig(pruning_layer=1, min_cluster_tokens=0)


@pytest.fixture(autouse=True)
def _no_graphs() -> Iterator[None]:
    yield
    torch._dynamo.reset()  # type: ignore[no-untyped-call]


def logits(call: Any) -> Tensor:
    with torch.no_grad():
        out: Tensor = call(**make_inputs(ONE_VIDEO)).logits
    return out


def fresh() -> Any:
    torch.manual_seed(0)
    return tiny.tiny_model("qwen2_5_vl", 3, "sdpa", torch.float32)


def whole(model: Any) -> Any:
    model.compile(backend="eager")
    return model


def forward(model: Any) -> Any:
    model.forward = torch.compile(model.forward, backend="eager")
    return model


def decoder(model: Any) -> Any:
    model.model.language_model.compile(backend="eager")
    return model


def layers(model: Any) -> Any:
    for layer in model.model.language_model.layers:
        layer.compile(backend="eager")
    return model


def wrapped(model: Any) -> Any:
    model.model.visual = torch.compile(model.model.visual, backend="eager")
    stack = model.model.language_model.layers
    for number, layer in enumerate(stack):
        stack[number] = torch.compile(layer, backend="eager")
    return model


WAYS: dict[str, Callable[[Any], Any]] = {
    "torch.compile(model)": lambda model: torch.compile(model, backend="eager"),
    "model.compile()": whole,
    "model.forward": forward,
    "decoder": decoder,
    "layers": layers,
    "wrapped parts": wrapped,
}


@pytest.mark.parametrize(
    "way", [each if each in ("decoder", "layers") else pytest.param(each, marks=pytest.mark.nightly) for each in WAYS]
)
def test_a_model_that_was_compiled_and_called_is_pruned(way: str) -> None:
    with pruned(plain := fresh(), PAPER):
        wanted = logits(plain)
    model = fresh()
    call = WAYS[way](model)
    stock = logits(call)
    with pruned(model, PAPER) as trace:
        assert torch.equal(logits(call), wanted)
        assert trace.prefills == 1
    assert wanted.shape != stock.shape, "nothing is pruned, so this proves nothing"
    assert torch.equal(logits(call), stock)


def test_the_compiled_model_itself_can_be_given() -> None:
    model = fresh()
    compiled = torch.compile(model, backend="eager")
    assert adapter_for(compiled).parts.root is adapter_for(model).parts.root
    with pruned(compiled, PAPER) as trace:
        logits(compiled)
    assert trace.samples[0].after_stage2 < trace.samples[0].tokens


class Graphs:
    """A compiled function, and how often its graph ran."""

    def __init__(self) -> None:
        self.ran = 0
        self.call = torch.compile(lambda x: x + 1, backend=self.compiled)

    def compiled(self, graph: Any, _inputs: Any) -> Any:
        def run(*args: Any) -> Any:
            self.ran += 1
            return graph.forward(*args)

        return run

    def run(self) -> bool:
        """Call it; say whether its graph ran."""
        before = self.ran
        assert self.call(torch.zeros(1)).item() == 1
        return self.ran > before


def test_graphs_run_before_and_after_the_block_alone() -> None:
    graphs, inside = Graphs(), []
    assert graphs.run()
    with pruned(tiny_model(), PAPER):
        thread = threading.Thread(target=lambda: inside.append(graphs.run()))  # as a streamer's generate
        thread.start()
        thread.join()
        inside.append(graphs.run())
    assert inside == [False, False]
    assert graphs.run()


def test_blocks_that_overlap_are_uncompiled_to_the_end_of_the_last() -> None:
    """As those of two models in two threads: the second may close last."""
    graphs, one, other = Graphs(), ExitStack(), ExitStack()
    one.enter_context(pruned(tiny_model(), PAPER))
    other.enter_context(pruned(fresh(), PAPER))
    one.close()
    assert not graphs.run()
    other.close()
    assert graphs.run()


def test_the_callers_own_stance_is_back_after_an_error() -> None:
    graphs = Graphs()
    with torch.compiler.set_stance("fail_on_recompile"):
        with pytest.raises(ZeroDivisionError), pruned(tiny_model(), PAPER):
            graphs.run()
            raise ZeroDivisionError
        with pytest.raises(RuntimeError):
            graphs.run()


def test_a_block_inside_a_compiled_function_is_refused() -> None:
    model = tiny_model()

    @torch.compile(backend="eager")
    def ask(x: Tensor) -> Tensor:
        with pruned(model, PAPER):
            return x + 1

    with pytest.raises(UnsupportedError):
        ask(torch.zeros(1))
    with pruned(model, PAPER) as trace:
        logits(model)
    assert trace.prefills == 1
