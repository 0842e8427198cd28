"""The summary of a folder of measurements: every figure, and what each of them means."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prunevid_qwen.errors import ConfigError
from prunevid_qwen.evaluation.speed.encoder_findings import DEFINITIONS as ENCODER_DEFINITIONS
from prunevid_qwen.evaluation.speed.encoder_findings import FACTS as ENCODER_FACTS
from prunevid_qwen.evaluation.speed.encoder_findings import encoder_findings, named_cell
from prunevid_qwen.evaluation.speed.speed_findings import MEASUREMENTS, noise_of, overhead_of, rows_of
from prunevid_qwen.evaluation.store import RunFolder, read_lines

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
    """Collect every figure of a run; `ConfigError` where the folder holds no measurements."""
    record = RunFolder(folder).record("prunevid bench speed")
    lines = read_lines(folder / MEASUREMENTS)
    if not lines:
        raise ConfigError(f"no measurements in {folder} yet: give the command that began it again")
    rows, encoder = rows_of(lines, record["options"]["new_tokens"]), encoder_findings(lines)
    noise = [f"{named_cell(cell)}: {cell['noise']}" for cell in encoder if cell["noise"]]
    return {
        **record,
        "definitions": DEFINITIONS,
        "noise": noise_of(rows) + noise,
        "rows": rows,
        "overhead": [overhead_of(line) for line in lines if line["kind"] == "overhead"],
        "growth": next((line for line in lines if line["kind"] == "growth"), None),
        "configs": {
            f"{said}{line['frames']} frames, batch {line['batch']}: {name}": about["config"]
            for kind, said in (("facts", ""), (ENCODER_FACTS, "encoder, "))
            for line in lines
            if line["kind"] == kind
            for name, about in line["variants"].items()
            if about.get("config")
        },
        # a run from before this was measured, or without it, has the files that it always had
        **({"encoder": encoder, "encoder_definitions": ENCODER_DEFINITIONS} if encoder else {}),
    }
