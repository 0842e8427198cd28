"""No method's memory grows with tokens times tokens: the largest tensor of a decision, at two numbers of tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from prunevid_qwen.contract import only_what_it_asks_for
from prunevid_qwen.contract.samples import QUESTION
from prunevid_qwen.forward.plan import compile_plan
from prunevid_qwen.needs import Evidence
from prunevid_qwen.tokens import Block, TokenLayout
from tests.method_matrix import METHODS, config_of

BLOCK_BYTES = 2**26  # of a product that is made in blocks: however long the video
FEW, MANY = 8192, 16384
ROWS, COLUMNS, WIDTH, DEPTH = 8, 16, 16, 28


class _Largest(TorchDispatchMode):
    bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        made = out if isinstance(out, (tuple, list)) else (out,)
        sizes = [each.untyped_storage().nbytes() for each in made if isinstance(each, Tensor)]
        self.bytes = max([self.bytes, *sizes])
        return out


def largest(decide: Callable[[], Any]) -> int:
    with _Largest() as mode:
        decide()
    return mode.bytes


def grows(decide: Callable[[int], Callable[[], Any]]) -> bool:
    """Whether the largest tensor grows faster than the tokens, and beyond a block."""
    few, many = (largest(decide(tokens)) for tokens in (FEW, MANY))
    return many > max(BLOCK_BYTES, 2.5 * few)


def shown(tokens: int) -> Evidence:
    visual, text = torch.arange(tokens), torch.arange(tokens, tokens + QUESTION)
    block = Block("video", (tokens // (ROWS * COLUMNS), ROWS, COLUMNS), 0, tokens)
    layout = TokenLayout(tokens + QUESTION, visual, text, (block,), torch.zeros(tokens, dtype=torch.long))
    values = torch.randn(tokens + QUESTION, WIDTH, generator=torch.Generator().manual_seed(0))
    return Evidence(layout, values[:tokens], values[tokens:], -values[:tokens, 0].abs(), start=tokens)


@pytest.mark.nightly
@pytest.mark.parametrize(("stage", "name"), [each for each in METHODS if each[1] != "glimpse"])  # of one width alone
def test_no_tensor_is_tokens_times_tokens(stage: int, name: str) -> None:
    plan = compile_plan(config_of(stage, name).replace(**_few(stage, name)), DEPTH)
    step = plan.steps[0]

    def decide(tokens: int) -> Callable[[], Any]:
        seen = only_what_it_asks_for(
            step.by, shown(tokens), step=0, layer=step.at, entered=(tokens,), steps_at=plan.places_of(step.by),
            depth=DEPTH,
        )  # fmt: skip
        return lambda: step.by.plan(seen)

    assert not grows(decide)


def _few(stage: int, name: str) -> dict[str, float]:
    """A tenth of the tokens where a share says how many: what is chosen one after the other is then soon chosen."""
    return {"cluster_ratio": 0.1} if stage == 1 and config_of(stage, name).has("cluster_ratio") else {}


def test_what_grows_is_seen() -> None:
    assert grows(lambda tokens: lambda: torch.empty(tokens, tokens, dtype=torch.bool))
    assert not grows(lambda tokens: lambda: torch.empty(tokens, 256))
    assert not grows(lambda tokens: lambda: torch.empty(tokens, BLOCK_BYTES // (4 * tokens)))
