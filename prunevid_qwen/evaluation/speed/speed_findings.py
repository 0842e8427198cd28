"""From measurements to figures: medians, speed-ups, what was predicted, where the difference goes."""

from __future__ import annotations

from statistics import median
from typing import Any

from prunevid_qwen.config.amounts import percent
from prunevid_qwen.evaluation.report.intervals import Quantiles
from prunevid_qwen.evaluation.report.page import Row
from prunevid_qwen.evaluation.speed.contest import KEEP_EVERYTHING, STOCK

MEASUREMENTS = "measurements.jsonl"
WHOLE = ("first_token", "decode_per_token", "end_to_end")
PARTS = ("vision", "stage1", "layers", "stage2", "stage3", "lm_head", "rest")
"""The parts of the way to the first token, in a sensible order; they add up to it."""

NOISY = 0.25
"""(high - low) / median of the stock model's time to the first token, above which a run is called noisy."""


def rows_of(lines: list[dict[str, Any]], new_tokens: int) -> list[Row]:
    """Make a row of the measured ``lines`` for each number of frames, batch and competitor, in the order measured.

    It holds what `speed_summary.DEFINITIONS` says and a ``sentence``, or the ``error`` of one that could not run.
    """
    rows: list[Row] = []
    for line in [line for line in lines if line["kind"] == "facts"]:
        cell = {"frames": line["frames"], "batch": line["batch"]}
        rounds = [each["times"] for each in lines if each["kind"] == "round" and cell.items() <= each.items()]
        for name, about in line["variants"].items() if rounds else ():
            row = {**cell, "variant": name, "rounds": len(rounds)}
            if "error" in about:
                rows.append({**row, "error": about["error"], "sentence": f"Did not run: {about['error']}."})
                continue
            own = [times[name] for times in rounds]
            row |= {
                "tokens_as_stock": about["tokens_as_stock"],
                "read_ms": None if line["read"] is None else in_ms(line["read"]["seconds"]),
                "ms": {part: in_ms([times[part] for times in own]) for part in WHOLE},
                "parts_ms": {part: in_ms([times["parts"][part] for times in own]) for part in PARTS},
                "prefill_ms": in_ms([_prefill(times) for times in own]),
                "memory": about["memory"],
                **{name: value for name, value in about["facts"].items() if name != "batch"},
            }
            stock = line["variants"][STOCK]
            if name != STOCK and "error" not in stock:
                row |= _compared(rounds, name, about["facts"]["flops"], stock["facts"]["flops"], new_tokens)
            rows.append({**row, "sentence": _sentence(row)})
    return rows


def _compared(
    rounds: list[dict[str, Any]], name: str, flops: dict[str, Any], stock_flops: dict[str, Any], new_tokens: int
) -> Row:
    """Set a competitor beside the stock model, round by round.

    What is predicted is the speed-up if the decoder's time were as its FLOPs, choosing cost nothing, and all else
    stayed as it is; the parts of the difference add up to ``above_predicted``.
    """
    pairs = [(times[STOCK], times[name]) for times in rounds]
    ratios = {
        "prefill": [_prefill(stock) / _prefill(own) for stock, own in pairs],
        "prefill_with_stage1": [_prefill(stock) / own["parts"]["decoder"] for stock, own in pairs],
        "layers_alone": [_prefill(stock) / own["parts"]["layers"] for stock, own in pairs],
        **{part: [stock[part] / own[part] for stock, own in pairs] for part in WHOLE},
    }
    speedup = {part: Quantiles.of(values).to_dict() for part, values in ratios.items()}
    shares = [own["end_to_end"] / stock["end_to_end"] - 1 for stock, own in pairs]

    prefill = stock_flops["decoder"]["total"] / flops["decoder"]["total"]
    before = median(stock["parts"]["first_token"] for stock, _ in pairs)
    decoder = median(_prefill(stock) for stock, _ in pairs)
    first = before - decoder + decoder / prefill
    after = (new_tokens - 1) * median(stock["decode_per_token"] for stock, _ in pairs)

    measured, *stages = (
        1000 * median(own["parts"][part] for _, own in pairs) for part in ("decoder", "stage1", "stage2", "stage3")
    )
    above = measured - 1000 * decoder / prefill
    keep = [t[KEEP_EVERYTHING]["parts"]["layers"] - _prefill(t[STOCK]) for t in rounds if KEEP_EVERYTHING in t]
    hooks = max(0.0, 1000 * median(keep)) if keep else 0.0  # hooks that seem to gain time cost nothing
    return {
        "speedup": speedup,
        "predicted": {
            "prefill": prefill,
            "prefill_causal": stock_flops["decoder"]["total_causal"] / flops["decoder"]["total_causal"],
            "first_token": before / first,
            "end_to_end": (before + after) / (first + after * flops["decode_step"] / stock_flops["decode_step"]),
        },
        "added_ms": {
            **{part: in_ms([own[part] - stock[part] for stock, own in pairs]) for part in WHOLE},
            "end_to_end_share": Quantiles.of(shares).to_dict(),
        },
        "reached": speedup["prefill"]["median"] / prefill,
        "difference_ms": {
            "predicted": 1000 * decoder / prefill,
            "measured": measured,
            "above_predicted": above,
            **dict(zip(("stage1", "stage2", "stage3"), stages, strict=True)),
            "hooks": hooks,
            "shorter_matrices": above - sum(stages) - hooks,
        },
    }


def _prefill(times: dict[str, Any]) -> float:
    return prefill_of(times["parts"])


def prefill_of(parts: dict[str, float]) -> float:
    """Return the seconds of the decoder's prefill with stages 2 and 3 inside it, without stage 1 before it."""
    return parts["decoder"] - parts["stage1"]


def in_ms(seconds: list[float]) -> dict[str, Any]:
    """Summarise seconds as milliseconds: median and quantiles."""
    return Quantiles.of([1000 * value for value in seconds]).to_dict()


def _sentence(row: Row) -> str:
    """Say the figures of a row that one looks for first."""
    parts = {part: row["parts_ms"][part]["median"] for part in PARTS}
    vision = percent(parts["vision"] / sum(parts.values()))
    said = f"First token after {row['ms']['first_token']['median']:.0f} ms, {vision} of it the vision encoder's"
    if "speedup" in row:
        prefill, token, whole = (row["speedup"][name]["median"] for name in ("prefill", "first_token", "end_to_end"))
        said += f"; speed-ups: prefill {prefill:.2f}x ({row['predicted']['prefill']:.2f}x predicted), "
        said += f"first token {token:.2f}x, end to end {whole:.2f}x"
    if row["variant"] == KEEP_EVERYTHING and row["tokens_as_stock"] is False:
        said += "; ITS TOKENS ARE NOT THE STOCK MODEL'S"
    return f"{said}."


def noise_of(rows: list[Row]) -> list[str]:
    """Name the cells whose stock times spread too widely to be believed."""
    found = []
    for row in (row for row in rows if row["variant"] == STOCK and "error" not in row):
        time = row["ms"]["first_token"]
        spread = (time["high"] - time["low"]) / time["median"]
        if spread > NOISY:
            found.append(
                f"{row['frames']} frames, batch {row['batch']}: the stock model's own time to the first token spreads "
                f"by {percent(spread)} between its 20 % and 80 % quantiles: something else ran on this machine"
            )
    return found


def overhead_of(line: dict[str, Any]) -> dict[str, Any]:
    """Summarise the pairs of `measure_overhead`: quantiles of the differences, a forward and of the whole answer."""
    pairs = [(pair[STOCK], pair[KEEP_EVERYTHING]) for pair in line["pairs"]]
    shares = [ours["end_to_end"] / stock["end_to_end"] - 1 for stock, ours in pairs]
    return {
        **{name: line[name] for name in ("shape", "prompt_tokens", "new_tokens")},
        "stock_ms": in_ms([stock["end_to_end"] for stock, _ in pairs]),
        "prefill_ms": in_ms([ours["first_token"] - stock["first_token"] for stock, ours in pairs]),
        "decode_ms": in_ms([ours["decode_per_token"] - stock["decode_per_token"] for stock, ours in pairs]),
        "generate_share": Quantiles.of(shares).to_dict(),
    }
