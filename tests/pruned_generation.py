"""What the tests of generation share: the small config, and the oracle for a batch of samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from prunevid_qwen.adapters import adapter_for
from prunevid_qwen.adapters.seams import cache_of
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.forward.hooks import pruned
from tests.masking import masked_logits, text_inputs
from tests.models import CACHE, RAGGED, VOCAB, make_inputs, tiny_model
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


def text_follow_up(model: Any, inputs: dict[str, torch.Tensor], what: Any) -> tuple[Any, Any]:
    """Ask a text on the cache of a first answer; what `generate` returned, and the trace of the first prompt."""
    with pruned(model, what) as trace:
        first = model.generate(**inputs, max_new_tokens=4, do_sample=False, **OUT)
        samples = trace.samples
        asked = torch.randint(10, VOCAB, (1, 5), generator=torch.Generator().manual_seed(3))
        ids = torch.cat([first.sequences, asked], 1)
        types = torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, ids.shape[1] - inputs["input_ids"].shape[1]))
        second = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), mm_token_type_ids=types,
            **{CACHE: cache_of(first)}, max_new_tokens=4, do_sample=False, **OUT,
        )  # fmt: skip
        trace.samples = samples
    return second, trace


def one_more_token(model: Any, inputs: dict[str, torch.Tensor]) -> Callable[[Any, list[int]], torch.Tensor]:
    """Return what answers a token on these rows of a cache that the prompt, two rows, has just filled."""
    tokens = torch.tensor([[20], [30]])
    grown = torch.nn.functional.pad(inputs["attention_mask"], (0, 1), value=1)
    place = (grown.sum(1, keepdim=True) - 1)[None].expand(3, -1, -1) + model.model.rope_deltas

    def step(cache: Any, rows: list[int]) -> torch.Tensor:
        given = {"attention_mask": grown[rows], "position_ids": place[:, rows]}
        logits: torch.Tensor = model(input_ids=tokens[rows], **{CACHE: cache}, **given).logits[:, -1]
        return logits

    return step


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
