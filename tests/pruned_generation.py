"""What the tests of generation share: the small config, and the oracle for a batch of samples."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from prunevid_qwen.adapters import adapter_for
from prunevid_qwen.config import PruneVidConfig
from tests.masking import masked_logits, text_inputs
from tests.models import RAGGED, make_inputs, tiny_model
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


def skip_if_the_library_mixes_beams_up() -> None:
    """As 5.18.0 does with several videos: the rows of one sample's beams show another sample's video."""
    seen: list[torch.Tensor] = []
    handle = tiny_model().model.language_model.register_forward_pre_hook(
        lambda _m, _args, kwargs: seen.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    try:
        tiny_model().generate(**make_inputs(RAGGED), max_new_tokens=1, num_beams=2, do_sample=False)
    finally:
        handle.remove()
    if not torch.equal(seen[0][0::2], seen[0][1::2]):
        pytest.skip("this transformers gives the beams of one sample another one's video")
