"""What the tests of generation share: the small config, and the oracle for a batch of samples."""

from __future__ import annotations

from typing import Any

import torch

from prunevid_qwen.adapters import adapter_for
from prunevid_qwen.config import PruneVidConfig
from tests.masking import masked_logits, text_inputs
from tests.models import make_inputs, tiny_model
from tests.test_pruning_equals_masking import TINY
from tests.tolerances import LOGITS, close

CONFIG = PruneVidConfig(**TINY)
OUT = {"return_dict_in_generate": True, "output_logits": True}


def oracle(samples: Any, sequences: torch.Tensor, trace: Any, config: PruneVidConfig = CONFIG) -> list[torch.Tensor]:
    model, inputs = tiny_model("eager"), make_inputs(samples)
    embeds, _ = text_inputs(model, make_inputs(samples))
    positions, _ = adapter_for(model).reference_positions(**inputs)
    return masked_logits(model, embeds, positions, inputs, sequences, trace, config.enable_cache_compression)


def same_logits(got: torch.Tensor, wanted: torch.Tensor) -> None:
    close(got, wanted, LOGITS)
