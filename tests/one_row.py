"""One row of a prompt as a step sees it, without a model."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from prunevid_qwen.forward.evidence import Sight
from prunevid_qwen.forward.plan import Step
from prunevid_qwen.forward.prefill import Prefill, SampleState
from prunevid_qwen.needs import Evidence, Needs


def seen_by(needs: Needs, row: SampleState, states: Tensor, vision_width: int) -> Evidence:
    """What a step that needs something is shown of a row whose tokens have the states [S, D]."""
    cache: Any = None
    valid = torch.ones(1, len(states), dtype=torch.bool)
    state, by, adapter = (
        Prefill([row], cache, len(states), 0, valid, None),
        SimpleNamespace(needs=needs, plan=lambda seen: None),
        SimpleNamespace(),
    )
    adapter.vision_width = vision_width
    return Sight(state, adapter, Step(3, by), 0, states[None], lambda: None).of(0)  # type: ignore[arg-type,return-value]
