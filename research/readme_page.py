"""The generated blocks of README and docs/methods.md, from committed raw results alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prunevid_qwen.config.amounts import percent
from prunevid_qwen.evaluation.speed.speed_page import table
from research.comparison import comparison_tables, points, read
from research.encoder_speed_page import encoder_speed
from research.methods_page import method_tables
from research.ran import named_today

SHOWN = ("recommended", "prunevid", "prunevid published", "random", "uniform")
BUDGETS = (0.25, 0.16, 0.10, 0.05)
FRAMES = 32

Row = dict[str, Any]


def readme_tables(results: Path) -> dict[str, str]:
    """Return the blocks "kept", "methods", "fast" and "encoder" of README.

    Args:
        results: the folder ``eval/results``.
    """
    kept, speed = (read(results, name) for name in ("kept_share.json", "efficiency_cpu/efficiency.json"))
    tables = {"fast": _fast(named_today(speed)["rows"]), "encoder": encoder_speed(results)}
    return {"kept": _kept(kept["rows"]), **method_tables(), **tables}


def methods_page(results: Path) -> dict[str, str]:
    """Return the blocks "methods", "matrix" and "lost" of docs/methods.md.

    Args:
        results: the folder ``eval/results``.
    """
    return {**comparison_tables(results), "lost": _lost(read(results, "moving_shapes/summary.json")["figures"])}


def _kept(rows: list[Row]) -> str:
    late, average = (
        [percent(row["tokens"][name] / row["tokens"]["visual"], 0) for row in rows]
        for name in ("after_stage2", "layer_average")
    )
    row = rows[0]
    before, keep = row["cut_after_layer"] + 1, row["keep_ratio"]
    whole = (before + (row["layers"] - before) * keep) / row["layers"]
    return (
        f"Under the default preset late layers see {late[0]} of the demo clip's visual tokens. Averaged over all "
        "layers, which is\nthe cost of the prompt, it is "
        f"{average[0]}. A camera that pans over a photo leaves {late[1]} and {average[1]}; a video in which nothing\n"
        f"merges, {percent(keep, 0)} and {percent(whole, 0)}."
    )


def _fast(rows: list[Row]) -> str:
    head = ["32 frames", "tokens in late layers", "on average", "prefill", "first token", "64 tokens, end to end"]
    shown = [row for row in rows if row["frames"] == FRAMES and "speedup" in row]
    lines = [
        [f"`{row['variant']}`" if row["variant"] != "keep everything" else row["variant"], percent(row["R2"], 1),
         percent(row["R_layer"], 1),
         *(f"{row['speedup'][name]['median']:.2f}x" for name in ("prefill", "first_token", "end_to_end"))]
        for row in shown
    ]  # fmt: skip
    return "\n".join(table(head, lines))


def _lost(figures: Row) -> str:
    cells = {(cell["method"], cell["budget"]): cell for cell in figures["cells"]}
    head = ["tokens, averaged over the layers", *(f"{budget:.0%}".replace("%", " %") for budget in BUDGETS)]
    lines = [[f"`{method}`", *(_points(cells[method, budget]) for budget in BUDGETS)] for method in SHOWN]
    unpruned, blank = (percent(figures[name]["accuracy"], 1) for name in ("unpruned", "blank"))
    said = (
        f"{figures['questions']} questions about {figures['videos']} videos; {unpruned} right unpruned, {blank} "
        "without a video. Intervals are of 95 %, clustered by video."
    )
    return "\n".join([*table(head, lines), "", said])


def _points(cell: Row) -> str:
    value, low, high = (points(each) for each in (cell["difference"], *cell["difference_interval"]))
    return f"{value} ({low} to {high})"
