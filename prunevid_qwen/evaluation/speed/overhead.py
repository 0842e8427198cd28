"""What the hooks themselves cost: keep-everything beside the stock model, as differences between neighbours in time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from prunevid_qwen.evaluation.report.intervals import Quantiles
from prunevid_qwen.evaluation.speed.contest import KEEP_EVERYTHING, KEEPS_ALL
from prunevid_qwen.evaluation.speed.model_shapes import build_model, shape_called
from prunevid_qwen.evaluation.speed.prompt_inputs import PromptSize, make_inputs
from prunevid_qwen.evaluation.speed.timed_run import timed_tokens
from prunevid_qwen.evaluation.store import Progress

OVERHEAD = "overhead"

# prompt, new tokens, rounds: enough for the difference to stand out of the noise in minutes on two cores
_SIZES = {"tiny": (PromptSize(16, 4, 5), 32, 60)}
_OTHERS = (PromptSize(8, 10, 14), 16, 12)


def measure_overhead(
    shapes: Sequence[str],
    device: torch.device,
    dtype: torch.dtype,
    attention: str,
    tell: Progress = lambda *_: None,
) -> Iterator[dict[str, Any]]:
    """Time stock and keep-everything `generate` in pairs, first one and then the other in front.

    Yields: for each shape the prompt, the length of the answers and the seconds of every pair.
    """
    for name in shapes:
        size, new_tokens, count = _SIZES.get(name, _OTHERS)
        model = build_model(shape_called(name), device, dtype, attention)
        inputs = make_inputs(size, model)
        pairs = []
        for number in range(-2, count):  # two rounds of warm-up
            tell(f"hooks' cost on {name}", max(number, 0), count)
            turns = (None, KEEPS_ALL) if number % 2 else (KEEPS_ALL, None)
            times = {turn is None: timed_tokens(model, inputs, turn, new_tokens)[0] for turn in turns}
            if number >= 0:
                pairs.append({"stock": times[True], KEEP_EVERYTHING: times[False]})
        tell(f"hooks' cost on {name}", count, count)
        yield {
            "kind": OVERHEAD, "shape": name, "prompt_tokens": size.length, "new_tokens": new_tokens, "pairs": pairs,
        }  # fmt: skip


def overhead_of(line: dict[str, Any]) -> dict[str, Any]:
    """Summarise the pairs of one shape.

    Returns: quantiles of the differences: ``prefill_ms`` and ``decode_ms`` a forward, and ``generate_share`` of the
        stock model's whole answer.
    """
    pairs = [(pair["stock"], pair[KEEP_EVERYTHING]) for pair in line["pairs"]]

    def added_ms(name: str) -> list[float]:
        return [1000 * (ours[name] - stock[name]) for stock, ours in pairs]

    found = {
        "stock_ms": [1000 * stock["end_to_end"] for stock, _ in pairs],
        "prefill_ms": added_ms("first_token"),
        "decode_ms": added_ms("decode_per_token"),
        "generate_share": [ours["end_to_end"] / stock["end_to_end"] - 1 for stock, ours in pairs],
    }
    about = {name: line[name] for name in ("shape", "prompt_tokens", "new_tokens")}
    return {**about, **{name: Quantiles.of(values).to_dict() for name, values in found.items()}}
