"""What the hooks themselves cost: keep-everything beside the stock model, as differences between neighbours in time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from prunevid_qwen.evaluation.efficiency.inputs import Prompt, make_inputs
from prunevid_qwen.evaluation.efficiency.shapes import build_model, shape_called
from prunevid_qwen.evaluation.efficiency.timing import Quantiles, timed_tokens
from prunevid_qwen.evaluation.efficiency.variants import KEEP_EVERYTHING, competitors

OVERHEAD = "overhead"

# prompt, new tokens, rounds: enough for the difference to stand out of the noise in minutes on two cores
_SIZES = {"tiny": (Prompt(16, 4, 5), 32, 60)}
_OTHERS = (Prompt(8, 10, 14), 16, 12)


def measure_overhead(
    shapes: Sequence[str],
    device: torch.device,
    dtype: torch.dtype,
    attention: str,
    tell: Callable[[str, int, int], None] = lambda *_: None,
) -> Iterator[dict[str, Any]]:
    """Time stock and keep-everything `generate` in pairs, first one and then the other in front.

    Args:
        shapes: of the models, one after the other.
        device, dtype, attention: of the models.
        tell: told of the progress.

    Yields: for each shape the prompt, the length of the answers and the seconds of every pair.
    """
    config = next(variant.config for variant in competitors(("paper",)) if variant.name == KEEP_EVERYTHING)
    for name in shapes:
        prompt, new_tokens, count = _SIZES.get(name, _OTHERS)
        model = build_model(shape_called(name), device, dtype, attention)
        inputs = make_inputs(prompt, model.config, device, dtype)
        pairs = []
        what = f"hooks' cost on {name}"
        for number in range(-2, count):  # two rounds of warm-up
            tell(what, max(number, 0), count)
            turns = (None, config) if number % 2 else (config, None)
            times = {turn is None: timed_tokens(model, inputs, turn, new_tokens)[0] for turn in turns}
            if number >= 0:
                pairs.append({"stock": times[True], KEEP_EVERYTHING: times[False]})
        tell(what, count, count)
        yield {
            "kind": OVERHEAD, "shape": name, "prompt_tokens": prompt.length, "new_tokens": new_tokens, "pairs": pairs,
        }  # fmt: skip


def overhead_of(line: dict[str, Any]) -> dict[str, Any]:
    """Summarise the pairs of one shape.

    Returns: quantiles of the differences: ``prefill_ms`` and ``decode_ms`` a forward, and ``generate_share`` of the
        stock model's whole answer.
    """
    pairs = [(pair["stock"], pair[KEEP_EVERYTHING]) for pair in line["pairs"]]

    def differences(name: str) -> list[float]:
        return [1000 * (ours[name] - stock[name]) for stock, ours in pairs]

    shares = [ours["end_to_end"] / stock["end_to_end"] - 1 for stock, ours in pairs]
    return {
        "shape": line["shape"],
        "prompt_tokens": line["prompt_tokens"],
        "new_tokens": line["new_tokens"],
        "stock_ms": Quantiles.of([1000 * stock["end_to_end"] for stock, _ in pairs]).to_dict(),
        "prefill_ms": Quantiles.of(differences("first_token")).to_dict(),
        "decode_ms": Quantiles.of(differences("decode_per_token")).to_dict(),
        "generate_share": Quantiles.of(shares).to_dict(),
    }
