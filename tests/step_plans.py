"""Plans of several steps, and the masked model that they are compared with."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from prunevid_qwen.adapters import adapter_for
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.forward.plan import Plan, Step, compile_plan
from prunevid_qwen.reducer import Evidence, Needs
from prunevid_qwen.stage2_select import FastV, PruneVid, Uniform
from prunevid_qwen.tokens import TokenMap
from tests.looking import LOOKING
from tests.masking import masked_logits, text_inputs
from tests.models import make_inputs, tiny_model
from tests.test_pruning_equals_masking import TINY

MERGE = compile_plan(PruneVidConfig(**TINY), 6).steps[0]
CUTS = (Step(1, PruneVid(keep_ratio=0.7)), Step(2, FastV(keep_ratio=0.6)), Step(4, Uniform(keep_ratio=0.5)))
PLANS = {
    "cuts": Plan(CUTS),
    "cuts, whole caches": Plan(CUTS, compress=False),
    "door and cuts": Plan((MERGE, *CUTS)),
    "door and cuts, whole caches": Plan((MERGE, *CUTS), compress=False),
    "first and last layer": Plan((Step(0, FastV(keep_ratio=0.6)), Step(5, FastV(keep_ratio=0.6)))),
    "last layer, whole caches": Plan((Step(3, Uniform(0.6)), Step(5, Uniform(0.6))), compress=False),
    "library's positions": Plan(CUTS, position_scheme="hf"),
    "evidence of each kind": Plan(LOOKING),
}
PLAN, WHOLE = PLANS["door and cuts"], PLANS["door and cuts, whole caches"]


BOTH = pytest.mark.parametrize(
    "plan", [PLAN, WHOLE, PLANS["evidence of each kind"]], ids=["cut_caches", "whole_caches", "evidence"]
)
ATTENTION = pytest.mark.parametrize("attention", ["sdpa", "eager"])


def oracle(samples: Any, sequences: torch.Tensor, trace: Any, plan: Plan) -> list[torch.Tensor]:
    model, inputs = tiny_model("eager"), make_inputs(samples)
    embeds, positions = text_inputs(model, make_inputs(samples))
    if plan.position_scheme == "reference":
        positions, _ = adapter_for(model).reference_positions(**inputs)
    return masked_logits(model, embeds, positions, inputs, sequences, trace, plan.compress)


def shrinks(trace: Any, plan: Plan) -> bool:
    """Whether some row of several tokens lost some at each of the plan's cuts."""
    return all(
        any(each.at == step.at and each.map.n_out < each.map.n_in for row in trace.samples for each in row.reductions)
        for step in plan.cuts
    )


class Notes:
    """Keeps a share and writes down what it saw."""

    def __init__(self, needs: Needs, keep_ratio: float) -> None:
        self.needs, self.by, self.seen = needs, Uniform(keep_ratio), []

    def plan(self, seen: Evidence) -> TokenMap:
        self.seen.append(seen)
        return self.by.plan(seen)
