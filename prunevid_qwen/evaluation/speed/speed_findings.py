"""From measurements to figures: medians, speed-ups round by round, what was predicted, and what eats the difference."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

from prunevid_qwen.errors import ConfigError
from prunevid_qwen.evaluation.report.intervals import Quantiles
from prunevid_qwen.evaluation.report.page import Row
from prunevid_qwen.evaluation.speed.competitors import KEEP_EVERYTHING, STOCK
from prunevid_qwen.evaluation.speed.growth import GROWTH
from prunevid_qwen.evaluation.speed.overhead import OVERHEAD, overhead_of
from prunevid_qwen.evaluation.speed.sentences import noise_of, sentence
from prunevid_qwen.evaluation.store import RunFolder, read_lines

MEASUREMENTS = "measurements.jsonl"
WHOLE = ("first_token", "decode_per_token", "end_to_end")
PARTS = ("vision", "stage1", "layers", "stage2", "stage3", "lm_head", "rest")
"""The parts of the way to the first token, in a sensible order; they add up to it."""

DEFINITIONS = {
    "ms.first_token": "tensors on the device to the first token chosen; nothing hooked but by `pruned` itself",
    "ms.decode_per_token": "(last token - first token) / (tokens - 1)",
    "ms.end_to_end": "the whole of generate(), entering and leaving `pruned` included",
    "read_ms": "decoding, resizing and cutting into patches of one video file, on the CPU; None: random pixels",
    "parts_ms": "another run up to the first token, with hooks around the stock modules; the parts add up",
    "prefill_ms": "the decoder's forward of the prompt, stages 2 and 3 included, stage 1 not",
    "speedup": "stock / own of the same round: median and quantiles of these",
    "predicted": "prefill: the decoder's FLOPs, stock / own, attention in full; first_token and end_to_end: if the "
    "decoder took as long as that says, choosing cost nothing and all else stayed",
    "reached": "speedup.prefill / predicted.prefill",
    "difference_ms": "what the decoder takes above the predicted time, part by part; hooks from keep everything",
    "flops": "2 x multiply-adds, all tokens, actual lengths of each layer, grouped-query heads, SwiGLU",
    "macs_fastv, macs_fastvid": "the papers' formulas: multiply-adds of visual tokens alone",
    "R1, R2, R_layer, R_kv": "visual tokens after stage 1, stage 2, averaged over layers; cache entries, text too",
    "memory": "bytes at the peak of one whole answer, and above what was there before it",
    "quantiles": "low and high are the 20 % and 80 % quantiles",
}


def summarise(folder: Path) -> dict[str, Any]:
    """Collect every figure of a run.

    Raises:
        ConfigError: the folder holds no measurements.
    """
    record = RunFolder(folder).record("prunevid bench speed")
    lines = read_lines(folder / MEASUREMENTS)
    if not lines:
        raise ConfigError(f"no measurements in {folder} yet: give the command that began it again")
    new_tokens = record["options"]["new_tokens"]
    rows = rows_of(lines, new_tokens)
    for row in rows:
        row["sentence"] = sentence(row, new_tokens)
    configs = {
        f"{line['frames']} frames, batch {line['batch']}: {name}": about["config"]
        for line in lines
        if line["kind"] == "facts"
        for name, about in line["variants"].items()
        if about.get("config")
    }
    return {
        **record,
        "definitions": DEFINITIONS,
        "noise": noise_of(rows),
        "rows": rows,
        "overhead": [overhead_of(line) for line in lines if line["kind"] == OVERHEAD],
        "growth": next((line for line in lines if line["kind"] == GROWTH), None),
        "configs": configs,
    }


def cell_of(line: dict[str, Any]) -> tuple[int, int]:
    """Frames and batch of a measurement."""
    return line["frames"], line["batch"]


def rows_of(lines: list[dict[str, Any]], new_tokens: int) -> list[Row]:
    """Make a row for each number of frames, batch and competitor that could run or could not.

    Args:
        lines: the folder's measurements.
        new_tokens: of every answer.

    Returns: rows in the order measured, stock first in each cell; `DEFINITIONS` says what they hold.
    """
    rows: list[Row] = []
    for facts in [line for line in lines if line["kind"] == "facts"]:
        rounds = [line["times"] for line in lines if line["kind"] == "round" and cell_of(line) == cell_of(facts)]
        for name, about in facts["variants"].items() if rounds else ():
            row = {"frames": facts["frames"], "batch": facts["batch"], "variant": name, "rounds": len(rounds)}
            if "error" in about:
                rows.append({**row, "error": about["error"]})
                continue
            stock = facts["variants"][STOCK]
            row |= _own(about, facts["read"], [times[name] for times in rounds])
            if name != STOCK and "error" not in stock:
                pairs = [(times[STOCK], times[name]) for times in rounds]
                hooks = [
                    times[KEEP_EVERYTHING]["parts"]["layers"] - _prefill(times[STOCK])
                    for times in rounds
                    if KEEP_EVERYTHING in times
                ]
                row |= _compared(pairs, hooks, about["facts"]["flops"], stock["facts"]["flops"], new_tokens)
            rows.append(row)
    return rows


def _own(about: dict[str, Any], read: dict[str, Any] | None, own: list[dict[str, Any]]) -> Row:
    return {
        "tokens_as_stock": about["tokens_as_stock"],
        "read_ms": None if read is None else _spread_ms(read["seconds"]),
        "ms": {part: _spread_ms([times[part] for times in own]) for part in WHOLE},
        "parts_ms": {part: _spread_ms([times["parts"][part] for times in own]) for part in PARTS},
        "prefill_ms": _spread_ms([_prefill(times) for times in own]),
        "memory": about["memory"],
        **{name: value for name, value in about["facts"].items() if name != "batch"},
    }


def _compared(
    pairs: list[tuple[Any, Any]], hooks: list[float], flops: dict[str, Any], stock_flops: dict[str, Any], new: int
) -> Row:
    """Set a competitor beside the stock model.

    Args:
        pairs: times of the stock model and its own, round by round.
        hooks: what hooks cost in each round, in seconds; none where it was not measured.
        flops, stock_flops: of both.
        new: tokens of every answer.
    """
    ratios = {
        "prefill": [_prefill(stock) / _prefill(own) for stock, own in pairs],
        "prefill_with_stage1": [_prefill(stock) / own["parts"]["decoder"] for stock, own in pairs],
        "layers_alone": [_prefill(stock) / own["parts"]["layers"] for stock, own in pairs],
        **{part: [stock[part] / own[part] for stock, own in pairs] for part in WHOLE},
    }
    speedup = {part: Quantiles.of(values).to_dict() for part, values in ratios.items()}
    predicted = _predicted([stock for stock, _ in pairs], flops, stock_flops, new)
    shares = [own["end_to_end"] / stock["end_to_end"] - 1 for stock, own in pairs]
    return {
        "speedup": speedup,
        "predicted": predicted,
        "added_ms": {
            **{part: _spread_ms([own[part] - stock[part] for stock, own in pairs]) for part in WHOLE},
            "end_to_end_share": Quantiles.of(shares).to_dict(),
        },
        "reached": speedup["prefill"]["median"] / predicted["prefill"],
        "difference_ms": _difference(pairs, hooks, predicted["prefill"]),
    }


def _predicted(
    times: list[dict[str, Any]], flops: dict[str, Any], stock_flops: dict[str, Any], new: int
) -> dict[str, float]:
    """Speed-ups if the decoder's time were as its FLOPs, choosing cost nothing, and all else stayed as it is."""
    prefill = stock_flops["decoder"]["total"] / flops["decoder"]["total"]
    before = median(time["parts"]["first_token"] for time in times)
    decoder = median(_prefill(time) for time in times)
    first = before - decoder + decoder / prefill
    after = (new - 1) * median(time["decode_per_token"] for time in times)
    return {
        "prefill": prefill,
        "prefill_causal": stock_flops["decoder"]["total_causal"] / flops["decoder"]["total_causal"],
        "first_token": before / first,
        "end_to_end": (before + after) / (first + after * flops["decode_step"] / stock_flops["decode_step"]),
    }


def _difference(pairs: list[tuple[Any, Any]], hooks: list[float], predicted: float) -> dict[str, float]:
    """Where the decoder's time above the predicted one goes, in ms; the parts add up to ``above_predicted``."""
    wanted = 1000 * median(_prefill(stock) for stock, _ in pairs) / predicted
    stages = ("stage1", "stage2", "stage3")
    decoder, *parts = (1000 * median(own["parts"][part] for _, own in pairs) for part in ("decoder", *stages))
    cost = max(0.0, 1000 * median(hooks)) if hooks else 0.0  # hooks that seem to gain time cost nothing
    return {
        "predicted": wanted,
        "measured": decoder,
        "above_predicted": decoder - wanted,
        **dict(zip(stages, parts, strict=True)),
        "hooks": cost,
        "shorter_matrices": decoder - wanted - sum(parts) - cost,
    }


def _prefill(times: dict[str, Any]) -> float:
    """The decoder's prefill with what stages 2 and 3 do inside it, without stage 1, which comes before it."""
    return float(times["parts"]["decoder"] - times["parts"]["stage1"])


def _spread_ms(seconds: list[float]) -> dict[str, Any]:
    return Quantiles.of([1000 * value for value in seconds]).to_dict()
