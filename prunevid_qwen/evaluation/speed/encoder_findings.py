"""Figures of the time to the first token with the vision encoder in it: shares, rho, gains predicted and reached."""

from __future__ import annotations

from statistics import median
from typing import Any

from prunevid_qwen.config.amounts import percent
from prunevid_qwen.evaluation.report.intervals import Quantiles
from prunevid_qwen.evaluation.report.page import Row
from prunevid_qwen.evaluation.speed.contest import STOCK
from prunevid_qwen.evaluation.speed.speed_findings import NOISY, PARTS, in_ms, prefill_of
from prunevid_qwen.evaluation.speed.video_contents import content_name

FACTS, ROUND = "encoder facts", "encoder round"
RECOMMENDED = "recommended"

DEFINITIONS = {
    "content": "the share of the picture that stands still, or 'pan'; the first temporal position is new as a whole",
    "ms.first_token": "tensors on the device to the first token chosen, with hooks around the stock modules",
    "encoder_share": "the vision encoder's time over the time to the first token, medians",
    "encoded": "share of the vision encoder's blocks and places that ran; all else is a copy. Positions of equal "
    "pixels, which `recommended` encodes once, count as encoded",
    "rho": "time of a FLOP in the stock vision encoder over the time of a FLOP in the stock decoder, of the same round",
    "predicted.first_token": "if encoder and decoder took as long as their FLOPs say, at the stock model's rho and "
    "shares, choosing cost nothing and all else stayed",
    "predicted.prefill": "the decoder's FLOPs, stock / own, attention in full",
    "reached": "speedup / predicted",
    "over_recommended": "time to the first token over that of `recommended` in the same round, less 1",
    "fewer frames": "the stock model on so many frames that it takes as long as `fast`: what else the time could buy",
}


def encoder_findings(lines: list[dict[str, Any]]) -> list[Row]:
    """Make a summary of each number of frames, batch and content among the measured ``lines``, in order.

    It holds the ``rho``, how the control's frames were ``chosen``, what is ``noisy``, and a row for each run with the
    figures of `DEFINITIONS` and a ``sentence``, or the ``error`` of one that could not run.
    """
    cells = []
    for line in (each for each in lines if each["kind"] == FACTS):
        cell = {name: line[name] for name in ("frames", "batch", "content")}
        rounds = [each["times"] for each in lines if each["kind"] == ROUND and cell.items() <= each.items()]
        if not rounds:
            continue
        variants = line["variants"]
        flops = None if "error" in variants[STOCK] else variants[STOCK]["facts"]["flops"]
        rows = [_row(name, about, rounds, flops) for name, about in variants.items()]
        cells.append(
            {
                **cell,
                "rounds": len(rounds),
                "rho": None if flops is None else Quantiles.of([_rho(each[STOCK], flops) for each in rounds]).to_dict(),
                "chosen": line["chosen"],
                "noise": None if flops is None else _noise(rows[list(variants).index(STOCK)]["ms"]["first_token"]),
                "rows": rows,
            }
        )
    return cells


def _rho(stock: dict[str, float], flops: Row) -> float:
    return (stock["vision"] / flops["vision"]) / (stock["decoder"] / flops["decoder"]["total"])


def _noise(time: Row) -> str | None:
    spread = (time["high"] - time["low"]) / time["median"]
    if spread <= NOISY:
        return None
    return (
        f"the stock model's own time to the first token spreads by {percent(spread)} between its 20 % and 80 % "
        "quantiles: something else ran on this machine"
    )


def _row(name: str, about: Row, rounds: list[dict[str, Any]], stock_flops: Row | None) -> Row:
    if "error" in about:
        return {"variant": name, "error": about["error"], "sentence": f"Did not run: {about['error']}."}
    own, facts = [times[name] for times in rounds], about["facts"]
    ms = {part: in_ms([times[part] for times in own]) for part in ("first_token", *PARTS)}
    row: Row = {
        "variant": name,
        "frames_shown": about["frames"],
        "ms": ms,
        "prefill_ms": in_ms([prefill_of(times) for times in own]),
        "encoder_share": ms["vision"]["median"] / ms["first_token"]["median"],
        "encoded": facts["encoded"],
        "memory": about["memory"],
        **{part: facts[part] for part in ("tokens", "R1", "R2", "R_layer", "flops")},
    }
    if stock_flops is not None and name != STOCK:
        row |= _compared(name, facts["flops"], rounds, stock_flops)
    return {**row, "sentence": _sentence(row)}


def _compared(name: str, flops: Row, rounds: list[dict[str, Any]], stock_flops: Row) -> Row:
    pairs = [(times[STOCK], times[name]) for times in rounds]
    ratios = {
        "first_token": [stock["first_token"] / own["first_token"] for stock, own in pairs],
        "vision": [stock["vision"] / own["vision"] for stock, own in pairs],
        "prefill": [prefill_of(stock) / prefill_of(own) for stock, own in pairs],
    }
    speedup = {part: Quantiles.of(values).to_dict() for part, values in ratios.items()}
    vision, decoder = (
        stock_flops["vision"] / flops["vision"],
        stock_flops["decoder"]["total"] / flops["decoder"]["total"],
    )
    before, seeing, answering = (
        median(stock[part] for stock, _ in pairs) for part in ("first_token", "vision", "decoder")
    )
    rest = before - seeing - answering
    predicted = {
        "first_token": before / (seeing / vision + answering / decoder + rest),
        "vision": vision,
        "prefill": decoder,
    }
    reached = {part: speedup[part]["median"] / predicted[part] for part in predicted}
    found: Row = {"speedup": speedup, "predicted": predicted, "reached": reached}
    if name != RECOMMENDED and RECOMMENDED in rounds[0]:
        shares = [times[name]["first_token"] / times[RECOMMENDED]["first_token"] - 1 for times in rounds]
        found["over_recommended"] = Quantiles.of(shares).to_dict()
    return found


def _sentence(row: Row) -> str:
    share, encoded = percent(row["encoder_share"]), percent(row["encoded"])
    said = f"First token after {row['ms']['first_token']['median']:.0f} ms, {share} of it the vision encoder's, which "
    said += f"ran on {encoded} of {row['frames_shown']} frames"
    if "speedup" in row:
        gain, predicted = row["speedup"]["first_token"]["median"], row["predicted"]["first_token"]
        said += f"; {gain:.2f}x as fast as the stock model ({predicted:.2f}x predicted)"
    return f"{said}."


def named_cell(cell: Row) -> str:
    """Return what tables call a cell."""
    return f"{cell['frames']} frames, batch {cell['batch']}, {content_name(cell['content'])}"
