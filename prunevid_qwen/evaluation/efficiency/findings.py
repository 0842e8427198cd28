"""From measurements to figures: medians, speed-ups round by round, what was predicted, and what eats the difference."""

from __future__ import annotations

from statistics import median
from typing import Any

from prunevid_qwen.evaluation.efficiency.folder import cell_of
from prunevid_qwen.evaluation.efficiency.timing import Quantiles
from prunevid_qwen.evaluation.efficiency.variants import KEEP_EVERYTHING, STOCK

Row = dict[str, Any]
WHOLE = ("first_token", "decode_per_token", "end_to_end")
PARTS = ("vision", "stage1", "layers", "stage2", "stage3", "lm_head", "rest")
"""The parts of the way to the first token, in a sensible order; they add up to it."""


def rows_of(lines: list[dict[str, Any]], new_tokens: int) -> list[Row]:
    """Make a row for each number of frames, batch and competitor that could run or could not.

    Args:
        lines: the folder's measurements.
        new_tokens: of every answer.

    Returns: rows in the order measured, stock first in each cell; see `_row` for what they hold.
    """
    rows: list[Row] = []
    for facts in [line for line in lines if line["kind"] == "facts"]:
        rounds = [line["times"] for line in lines if line["kind"] == "round" and cell_of(line) == cell_of(facts)]
        if not rounds:
            continue
        for name, about in facts["variants"].items():
            row = {"frames": facts["frames"], "batch": facts["batch"], "variant": name, "rounds": len(rounds)}
            rows.append({**row, **_row(name, about, facts, rounds, new_tokens)})
    return rows


def _row(name: str, about: dict[str, Any], facts: dict[str, Any], rounds: list[dict[str, Any]], new: int) -> Row:
    if "error" in about:
        return {"error": about["error"]}
    own = [times[name] for times in rounds]
    row: Row = {
        "tokens_as_stock": about["tokens_as_stock"],
        "read_ms": _spread(facts["read"]["seconds"]) if facts["read"] else None,
        "ms": {part: _spread([times[part] for times in own]) for part in WHOLE},
        "parts_ms": {part: _spread([times["parts"][part] for times in own]) for part in PARTS},
        "prefill_ms": _spread([_prefill(times) for times in own]),
        "memory": about["memory"],
        **{key: value for key, value in about["facts"].items() if key not in ("batch",)},
    }
    stock = facts["variants"][STOCK]
    if name == STOCK or "error" in stock:
        return row
    row["speedup"] = _speedups(name, rounds)
    row["predicted"] = _predicted(about["facts"]["flops"], stock["facts"]["flops"], rounds, new)
    row["added_ms"] = _added(name, rounds)
    row["reached"] = row["speedup"]["prefill"]["median"] / row["predicted"]["prefill"]
    row["difference_ms"] = _difference(name, rounds, row["predicted"]["prefill"])
    return row


def _prefill(times: dict[str, Any]) -> float:
    """The decoder's prefill with what stages 2 and 3 do inside it, without stage 1, which comes before it."""
    return float(times["parts"]["decoder"] - times["parts"]["stage1"])


def _speedups(name: str, rounds: list[dict[str, Any]]) -> dict[str, Any]:
    pairs = [(times[STOCK], times[name]) for times in rounds]
    ratios = {
        "prefill": [_prefill(stock) / _prefill(own) for stock, own in pairs],
        "prefill_with_stage1": [_prefill(stock) / own["parts"]["decoder"] for stock, own in pairs],
        "layers_alone": [_prefill(stock) / own["parts"]["layers"] for stock, own in pairs],
        **{part: [stock[part] / own[part] for stock, own in pairs] for part in WHOLE},
    }
    return {part: Quantiles.of(values).to_dict() for part, values in ratios.items()}


def _added(name: str, rounds: list[dict[str, Any]]) -> dict[str, Any]:
    pairs = [(times[STOCK], times[name]) for times in rounds]
    added = {part: _spread([own[part] - stock[part] for stock, own in pairs]) for part in WHOLE}
    shares = [own["end_to_end"] / stock["end_to_end"] - 1 for stock, own in pairs]
    return {**added, "end_to_end_share": Quantiles.of(shares).to_dict()}


def _predicted(
    flops: dict[str, Any], stock: dict[str, Any], rounds: list[dict[str, Any]], new: int
) -> dict[str, float]:
    """Speed-ups if the decoder's time were as its FLOPs, choosing cost nothing, and all else stayed as it is."""
    prefill = stock["decoder"]["total"] / flops["decoder"]["total"]
    times = [turn[STOCK] for turn in rounds]
    before = median(time["parts"]["first_token"] for time in times)
    decoder = median(_prefill(time) for time in times)
    first = before - decoder + decoder / prefill
    after = (new - 1) * median(time["decode_per_token"] for time in times)
    return {
        "prefill": prefill,
        "prefill_causal": stock["decoder"]["total_causal"] / flops["decoder"]["total_causal"],
        "first_token": before / first,
        "end_to_end": (before + after) / (first + after * flops["decode_step"] / stock["decode_step"]),
    }


def _difference(name: str, rounds: list[dict[str, Any]], predicted: float) -> dict[str, float]:
    """Where the decoder's time above the predicted one goes, in ms; the parts add up to ``above_predicted``."""
    stock = 1000 * median(_prefill(times[STOCK]) for times in rounds)
    parts = {
        part: 1000 * median(times[name]["parts"][part] for times in rounds) for part in ("stage1", "stage2", "stage3")
    }
    hooks = 0.0
    if all(KEEP_EVERYTHING in times for times in rounds):
        added = [times[KEEP_EVERYTHING]["parts"]["layers"] - _prefill(times[STOCK]) for times in rounds]
        hooks = max(0.0, 1000 * median(added))
    decoder = 1000 * median(times[name]["parts"]["decoder"] for times in rounds)
    above = decoder - stock / predicted
    return {
        "predicted": stock / predicted,
        "measured": decoder,
        "above_predicted": above,
        **parts,
        "hooks": hooks,
        "shorter_matrices": above - sum(parts.values()) - hooks,
    }


def _spread(seconds: list[float]) -> dict[str, Any]:
    return Quantiles.of([1000 * value for value in seconds]).to_dict()
