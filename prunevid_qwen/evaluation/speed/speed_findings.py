"""From measurements to figures (medians, speed-ups, what was predicted, what eats the difference) and sentences."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

from prunevid_qwen.config.amounts import percent
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.evaluation.report.intervals import Quantiles
from prunevid_qwen.evaluation.report.page import Row
from prunevid_qwen.evaluation.speed.contest import KEEP_EVERYTHING, STOCK
from prunevid_qwen.evaluation.speed.growth import GROWTH
from prunevid_qwen.evaluation.speed.overhead import OVERHEAD, overhead_of
from prunevid_qwen.evaluation.store import RunFolder, read_lines

MEASUREMENTS = "measurements.jsonl"
WHOLE = ("first_token", "decode_per_token", "end_to_end")
PARTS = {
    "vision": "the vision encoder", "stage1": "stage 1", "layers": "the decoder", "stage2": "stage 2",
    "stage3": "stage 3", "lm_head": "the output layer", "rest": "what lies between the parts",
}  # fmt: skip
"""The parts of the way to the first token, in a sensible order; they add up to it."""

_NOTICEABLE = 1.05  # less than that is called the same
_STAGES = ("stage1", "stage2", "stage3")
_EATERS = {
    "stage2": "stage 2", "stage3": "stage 3", "hooks": "hooks",
    "shorter_matrices": "lower efficiency at shorter lengths",
}  # fmt: skip
_SHORT = 0.85  # of the predicted speed-up: what is missing is named below it
_NOISY = 0.25  # (high - low) / median of the stock model's time to the first token

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
    """Make a row for each number of frames, batch and competitor that could run or could not, in the order measured.

    Args:
        lines: the folder's measurements.
        new_tokens: of every answer.

    Returns: what `DEFINITIONS` says.
    """
    rows: list[Row] = []
    for line in [line for line in lines if line["kind"] == "facts"]:
        rounds = [each["times"] for each in lines if each["kind"] == "round" and cell_of(each) == cell_of(line)]
        for name, about in line["variants"].items() if rounds else ():
            row = {"frames": line["frames"], "batch": line["batch"], "variant": name, "rounds": len(rounds)}
            if "error" in about:
                rows.append({**row, "error": about["error"]})
                continue
            own = [times[name] for times in rounds]
            row |= {
                "tokens_as_stock": about["tokens_as_stock"],
                "read_ms": None if line["read"] is None else _spread_ms(line["read"]["seconds"]),
                "ms": {part: _spread_ms([times[part] for times in own]) for part in WHOLE},
                "parts_ms": {part: _spread_ms([times["parts"][part] for times in own]) for part in PARTS},
                "prefill_ms": _spread_ms([_prefill(times) for times in own]),
                "memory": about["memory"],
                **{name: value for name, value in about["facts"].items() if name != "batch"},
            }
            stock = line["variants"][STOCK]
            if name != STOCK and "error" not in stock:
                row |= _compared(rounds, name, about["facts"]["flops"], stock["facts"]["flops"], new_tokens)
            rows.append(row)
    return rows


def _compared(
    rounds: list[dict[str, Any]], name: str, flops: dict[str, Any], stock_flops: dict[str, Any], new_tokens: int
) -> Row:
    """Set a competitor beside the stock model, round by round."""
    pairs = [(times[STOCK], times[name]) for times in rounds]
    ratios = {
        "prefill": [_prefill(stock) / _prefill(own) for stock, own in pairs],
        "prefill_with_stage1": [_prefill(stock) / own["parts"]["decoder"] for stock, own in pairs],
        "layers_alone": [_prefill(stock) / own["parts"]["layers"] for stock, own in pairs],
        **{part: [stock[part] / own[part] for stock, own in pairs] for part in WHOLE},
    }
    speedup = {part: Quantiles.of(values).to_dict() for part, values in ratios.items()}
    predicted = _predicted([stock for stock, _ in pairs], flops, stock_flops, new_tokens)
    shares = [own["end_to_end"] / stock["end_to_end"] - 1 for stock, own in pairs]
    return {
        "speedup": speedup,
        "predicted": predicted,
        "added_ms": {
            **{part: _spread_ms([own[part] - stock[part] for stock, own in pairs]) for part in WHOLE},
            "end_to_end_share": Quantiles.of(shares).to_dict(),
        },
        "reached": speedup["prefill"]["median"] / predicted["prefill"],
        "difference_ms": _difference(rounds, name, predicted["prefill"]),
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


def _difference(rounds: list[dict[str, Any]], name: str, predicted: float) -> dict[str, float]:
    """Where the decoder's time above the predicted one goes, in ms; the parts add up to ``above_predicted``."""
    own = {part: 1000 * median(times[name]["parts"][part] for times in rounds) for part in ("decoder", *_STAGES)}
    wanted = 1000 * median(_prefill(times[STOCK]) for times in rounds) / predicted
    measured = own.pop("decoder")
    keep = [t[KEEP_EVERYTHING]["parts"]["layers"] - _prefill(t[STOCK]) for t in rounds if KEEP_EVERYTHING in t]
    hooks = max(0.0, 1000 * median(keep)) if keep else 0.0  # hooks that seem to gain time cost nothing
    return {
        "predicted": wanted,
        "measured": measured,
        "above_predicted": measured - wanted,
        **own,
        "hooks": hooks,
        "shorter_matrices": measured - wanted - sum(own.values()) - hooks,
    }


def _prefill(times: dict[str, Any]) -> float:
    """The decoder's prefill with what stages 2 and 3 do inside it, without stage 1, which comes before it."""
    return float(times["parts"]["decoder"] - times["parts"]["stage1"])


def _spread_ms(seconds: list[float]) -> dict[str, Any]:
    return Quantiles.of([1000 * value for value in seconds]).to_dict()


def sentence(row: Row, new_tokens: int) -> str:
    """Say what a row of `rows_of` means: faster or not, by how much, and why not more."""
    if "error" in row:
        return f"Did not run: {row['error']}."
    if row["variant"] == STOCK:
        shares = ", ".join(f"{PARTS[part]} {percent(share)}" for part, share in _shares(row)[:3])
        return f"First token after {row['ms']['first_token']['median']:.0f} ms: {shares}."
    if "speedup" not in row:
        return "The stock model could not run here: nothing to compare with."
    if row["variant"] == KEEP_EVERYTHING:
        return _keeping(row)
    ratio = {part: value["median"] for part, value in row["speedup"].items()}
    said = f"Prefill {faster(ratio['prefill'])} (predicted {row['predicted']['prefill']:.1f}x"
    if row["parts_ms"]["stage1"]["median"] > 0:
        said += f"; {ratio['prefill_with_stage1']:.1f}x with stage 1"
    if row["reached"] < _SHORT:
        largest = max(_EATERS, key=lambda name: row["difference_ms"][name])
        said += f"; most of what is missing: {_EATERS[largest]}"
    first = f"to first token {faster(ratio['first_token'])}{_because(row, ratio['prefill'], ratio['first_token'])}"
    return f"{said}); {first}; end to end with {new_tokens} new tokens {faster(ratio['end_to_end'])}."


def faster(ratio: float) -> str:
    """Say a speed-up: faster, slower, or neither."""
    if ratio >= _NOTICEABLE:
        return f"{ratio:.1f}x faster" if ratio >= 1.1 else f"{ratio:.2f}x faster"
    if ratio <= 1 / _NOTICEABLE:
        return f"{1 / ratio:.2f}x slower"
    return f"not faster ({ratio:.2f}x)"


def noise_of(rows: list[Row]) -> list[str]:
    """Name the cells whose stock times spread too widely to be believed."""
    found = []
    for row in rows:
        if row["variant"] == STOCK and "error" not in row:
            time = row["ms"]["first_token"]
            spread = (time["high"] - time["low"]) / time["median"]
            if spread > _NOISY:
                found.append(
                    f"{row['frames']} frames, batch {row['batch']}: the stock model's own time to the first token "
                    f"spreads by {percent(spread)} between its 20 % and 80 % quantiles: something else ran on this "
                    "machine"
                )
    return found


def eaten(difference: dict[str, float]) -> str:
    """Say what eats the difference between the predicted and the measured time of the decoder."""
    parts = [f"{name} {difference[key]:+.1f}" for key, name in {"stage1": "stage 1", **_EATERS}.items()]
    return f"{difference['predicted']:.1f} ms predicted, {difference['measured']:.1f} measured: {', '.join(parts)}"


def _shares(row: Row) -> list[tuple[str, float]]:
    medians = {part: value["median"] for part, value in row["parts_ms"].items()}
    total = sum(medians.values())
    return sorted(((part, value / total) for part, value in medians.items()), key=lambda pair: -pair[1])


def _because(row: Row, prefill: float, first: float) -> str:
    """Why the first token gains less than the prefill."""
    if first > 0.9 * prefill and first >= _NOTICEABLE:
        return ""
    shares = [(part, share) for part, share in _shares(row) if part != "layers" and share >= 0.1]
    said = [f"{PARTS[part]} is {percent(share)} of it" for part, share in shares[:3]]
    if prefill < _NOTICEABLE:  # what pruning leaves alone is not to blame
        said = ["the prefill is not", *(text for text in said if text.startswith("stage"))]
    return ", because " + " and ".join(said) if said else ""


def _keeping(row: Row) -> str:
    first, step = row["added_ms"]["first_token"]["median"], row["added_ms"]["decode_per_token"]["median"]
    share = row["added_ms"]["end_to_end_share"]["median"]
    same = "its tokens are the stock model's" if row["tokens_as_stock"] else "ITS TOKENS ARE NOT THE STOCK MODEL'S"
    return (
        f"All stages on and nothing dropped: {first:+.1f} ms to the first token, {step:+.2f} ms a token, "
        f"{100 * share:+.1f} % end to end; {same}."
    )
