"""Plans that cannot be carried out, or are none, are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.forward.hooks import pruned
from prunevid_qwen.forward.plan import Plan, Step, compile_plan
from prunevid_qwen.reducer import Evidence, Needs, Probe
from prunevid_qwen.stage1_merge import Pool
from prunevid_qwen.stage2_select import FastV, Uniform
from prunevid_qwen.tokens import TokenMap
from prunevid_qwen.tokens.trace import DOOR
from tests.models import ONE_VIDEO, make_inputs, tiny_model
from tests.step_plans import Notes
from tests.test_pruning_equals_masking import TINY

pytestmark = pytest.mark.usefixtures("scores_apart")


PROBE = Probe(torch.zeros(6, 1, 64), (0, 2), 4)
REFUSED: dict[str, tuple[tuple[Step, ...], str]] = {
    "beyond the model": ((Step(6, Uniform()),), "6"),
    "before the door": ((Step(-2, Uniform()),), "-2"),
    "out of order": ((Step(3, Uniform()), Step(2, Uniform())), "2"),
    "two at a place": ((Step(3, Uniform()), Step(3, Uniform())), "3"),
    "attention at the door": ((Step(DOOR, FastV(keep_ratio=0.5)),), "attention"),
    "probe at the door": ((Step(DOOR, Notes(Needs(probe=PROBE), 0.5)),), "door"),
    "probe behind a cut": ((Step(1, Uniform()), Step(3, Notes(Needs(probe=PROBE), 0.5))), "2"),
    "two probes": ((Step(3, Notes(Needs(probe=PROBE), 0.5)), Step(4, Notes(Needs(probe=PROBE), 0.5))), "probe"),
    "a trained layer": ((Step(1, Notes(Needs(layers=(4,)), 0.5)),), "4"),
    "a trained layer, by its old name": ((Step(1, Notes(Needs(layer=3), 0.5)),), "4"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_carried_out_is_refused(case: str) -> None:
    steps, said = REFUSED[case]
    with pytest.raises(ConfigError, match=said), pruned(tiny_model(), Plan(steps)):
        pass


class Wants:
    """Asks for whatever it is given."""

    def __init__(self, needs: Any, of: int | None = None) -> None:
        self.needs, self.of = needs, of

    def plan(self, seen: Evidence) -> TokenMap:
        return TokenMap.identity(self.of or seen.layout.visual.numel(), seen.hidden.device)


STEP = Step(2, Uniform())
NO_PLANS: dict[str, Callable[[], Any]] = {
    "one step": lambda: Plan(STEP),  # type: ignore[arg-type]
    "a reducer for a step": lambda: Plan((Uniform(),)),  # type: ignore[arg-type]
    "a name for a step": lambda: Plan(("fastv",)),  # type: ignore[arg-type]
    "a place in words": lambda: Step("2", Uniform()),  # type: ignore[arg-type]
    "a share for a place": lambda: Step(0.5, Uniform()),  # type: ignore[arg-type]
    "true for a place": lambda: Step(True, Uniform()),
    "a word for compress": lambda: Plan((STEP,), compress="no"),  # type: ignore[arg-type]
    "an unknown scheme": lambda: Plan((STEP,), position_scheme="packed"),
    "no tokens at once": lambda: Plan((STEP,), vision_chunk_tokens=0),
    "unknown places": lambda: Plan((STEP,), places="hf"),
    "attention in a word": lambda: Needs(attention="mean"),  # type: ignore[arg-type]
    "blocks for a query": lambda: Needs(vision=(0,)),  # type: ignore[arg-type]
    "a word for marks": lambda: Needs(marks="all"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("case", NO_PLANS)
def test_what_is_no_plan_is_refused_when_it_is_written(case: str) -> None:
    with pytest.raises(ConfigError):
        NO_PLANS[case]()


def test_a_list_of_steps_is_as_good_as_a_tuple() -> None:
    assert Plan([STEP]) == Plan((STEP,))  # type: ignore[arg-type]


@pytest.mark.parametrize("what", [Plan((Step(2, Wants(None)),)), [Step(2, Wants("attention"))]])
def test_what_a_reducer_needs_is_a_needs(what: Any) -> None:
    with pytest.raises(ConfigError, match="Wants"), pruned(tiny_model(), what):
        pass


def test_a_map_of_other_tokens_is_refused() -> None:
    with pytest.raises(ConfigError, match="7"), pruned(tiny_model(), Plan((Step(2, Wants(Needs(), of=7)),))):
        tiny_model()(**make_inputs(ONE_VIDEO))


def test_a_config_is_at_most_two_steps() -> None:
    config = PruneVidConfig(**TINY)
    assert [(step.at, step.name) for step in compile_plan(config, 6).steps] == [(DOOR, "prunevid"), (2, "prunevid")]
    assert compile_plan(config.replace(enable_stage1=False, enable_stage2=False), 6).steps == ()
    assert Step(3, Pool(0.5)).name == "Pool"
