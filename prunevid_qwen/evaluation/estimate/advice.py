"""Sentences about an estimate: where pruning helps, and where it cannot."""

from __future__ import annotations

from prunevid_qwen.config.amounts import percent, size
from prunevid_qwen.evaluation.estimate.estimating import PromptEstimate
from prunevid_qwen.evaluation.estimate.token_counts import ALL, MOST

_MUCH, _SHORT = 0.5, 512


def advice(stock: PromptEstimate, pruned: PromptEstimate | None, weights: int, free: int | None) -> list[str]:
    """Return what one should know before one starts.

    Args:
        stock: without pruning.
        pruned: with it; None where none was asked for.
        weights: bytes of the weights.
        free: bytes of the device's memory; None where unknown.
    """
    found = []
    if free is not None and weights > free:
        found.append(
            f"The weights alone take {size(weights)} of {size(free)}: pruning does not make them smaller. Load them "
            "quantised, or over several devices."
        )
    elif free is not None and stock.above_weights <= free - weights < weights / 20:
        found.append("The weights take nearly all of the memory. Pruning has little to save.")
    if pruned is None:
        return found
    found += _of_time(stock, pruned) + _of_memory(stock, pruned, weights)
    hows = {each.how for each in pruned.steps}
    if MOST in hows:
        found.append(
            "How much the merger leaves depends on the video. Counted is a video in which nothing stands still."
        )
    if ALL in hows:
        found.append("How much a step leaves depends on the video. It is counted as if it left all of it.")
    return found


def _of_time(stock: PromptEstimate, pruned: PromptEstimate) -> list[str]:
    found = []
    before, after = stock.seconds, pruned.seconds
    share = before["vision"] / before["first_token"]
    if share > _MUCH:
        found.append(
            f"The vision encoder is {percent(share)} of the time to the first token: pruning inside the decoder saves "
            f"less than {percent(1 - share)} of it. `--config fast` and fewer or smaller frames reach the rest."
        )
    if stock.visual < _SHORT:
        found.append(
            f"The prompt is short: {stock.visual} visual tokens. Hooks and selection take about as long as they save."
        )
    decoding = after["decode_per_token"] * (pruned.prompt.new_tokens - 1) / after["total"]
    if decoding > _MUCH:
        found.append(
            f"Writing the answer is {percent(decoding)} of the time. It reads the weights for each token, whatever was "
            "pruned: a shorter answer, a larger batch or quantised weights help more."
        )
    return found


def _of_memory(stock: PromptEstimate, pruned: PromptEstimate, weights: int) -> list[str]:
    found, memory = [], pruned.memory
    if memory.vision > memory.decoder:
        found.append(
            "The vision encoder is the fullest moment, before any token is pruned. A smaller --vision_chunk_tokens "
            "makes it less."
        )
    saved = stock.above_weights - pruned.above_weights
    if saved < (weights + stock.above_weights) / 20:
        found.append(f"Pruning saves {size(max(0, saved))} of memory. The weights are {size(weights)}, and stay.")
    return found
