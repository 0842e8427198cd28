"""What a run leaves behind: efficiency.json with every figure, efficiency.csv, report.md to read, and its plots."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from prunevid_qwen.evaluation.report.page import Row, Table, csv_text, json_text, page
from prunevid_qwen.evaluation.report.plots import Theme, draw, heading, legend, style_of
from prunevid_qwen.evaluation.speed.contest import KEEP_EVERYTHING, STOCK
from prunevid_qwen.evaluation.speed.encoder_page import encoder_part
from prunevid_qwen.evaluation.speed.speed_findings import PARTS, WHOLE
from prunevid_qwen.evaluation.speed.speed_summary import summarise
from prunevid_qwen.evaluation.store import replace

_TABLES = {  # the first column's title -> the others, each with the figure of a row that stands in it
    "ms": "first token=ms.first_token; a token=ms.decode_per_token; end to end=ms.end_to_end; "
    + "; ".join(f"{part}=parts_ms.{part}.median" for part in PARTS),
    "speed-up": "prefill=speedup.prefill; predicted=predicted.prefill; (causal)=predicted.prefill_causal; "
    "reached=reached; with stage 1=speedup.prefill_with_stage1; layers alone=speedup.layers_alone; "
    "first token=speedup.first_token; predicted=predicted.first_token; "
    "end to end=speedup.end_to_end; predicted=predicted.end_to_end",
    "the decoder's ms": "predicted=difference_ms.predicted; measured=difference_ms.measured; "
    "above predicted=difference_ms.above_predicted; stage 1=difference_ms.stage1; stage 2=difference_ms.stage2; "
    "stage 3=difference_ms.stage3; hooks=difference_ms.hooks; shorter matrices=difference_ms.shorter_matrices",
    "tokens": "stage 1=tokens.after_stage1; stage 2=tokens.after_stage2; R1=R1; R2=R2; R_layer=R_layer; R_kv=R_kv; "
    "cache MB=cache_bytes.measured; computed=cache_bytes.computed; peak MB=memory.peak; above=memory.above",
    "GFLOPs": "vision=flops.vision; stage 1=flops.stage1; decoder=flops.decoder.total; "
    "(causal)=flops.decoder.total_causal; stage 2=flops.stage2; output layer=flops.lm_head; "
    "a token=flops.decode_step; FastV GMACs=flops.macs_fastv; FastVID GMACs=flops.macs_fastvid",
}
_OVERHEAD = (
    "prompt=prompt_tokens; new tokens=new_tokens; stock ms=stock_ms.median; added to the prefill, ms=prefill_ms; "
    "to a step, ms=decode_ms; to generate, %=generate_share"
)
_GROWTH = (
    "tokens=tokens; left=after_stage1; ms=seconds; peak above the features, MB=memory.above; features, MB=input_bytes"
)
_DIVISORS = {"flops": 1e9, "seconds": 1e-3, "generate_share": 1e-2}
_DIVISORS |= dict.fromkeys(("cache_bytes", "memory", "input_bytes"), 1e6)
_FORMATS = {  # of others .1f
    "difference_ms": "+.1f",
    **dict.fromkeys(("prompt_tokens", "new_tokens", "stock_ms", "tokens", "after_stage1"), ".0f"),
    **dict.fromkeys(("speedup", "predicted", "reached", "flops"), ".2f"),
    **dict.fromkeys(("prefill_ms", "decode_ms", "generate_share"), "+.2f"),
    **dict.fromkeys(("R1", "R2", "R_layer", "R_kv"), ".3f"),
}


def write_report(folder: Path, plots: bool = False) -> dict[str, Any]:
    """Write the three files of a run's folder, with ``plots`` those too, and return the summary.

    Raises:
        ConfigError: the folder holds no measurements.
        SetupError: plots are wanted and matplotlib is not installed.
    """
    summary = summarise(folder)
    drawn = _draw_plots(folder, summary) if plots else []
    replace(folder / "efficiency.json", json_text(summary, ascii_alone=True).encode())
    replace(folder / "efficiency.csv", csv_text(map(flat_row, summary["rows"]), end="\r\n").encode())
    options, machine = summary["options"], summary["hardware"]
    model = options["model_path"] or f"random weights of shape {options['shape']}"
    where = machine.get("gpu") or f"{summary['machine']}, {machine['threads']} threads"
    changes = ", with uncommitted changes" if summary["uncommitted_changes"] else ""
    video = f"{options['video']} videos" if options["video"] else f"random pixels ({options['content']})"
    cells = groupby(summary["rows"], key=lambda row: (row["frames"], row["batch"]))
    overhead, growth = summary["overhead"], summary["growth"]
    shown = [f"![{name}]({name})" for name in drawn if name.endswith("_light.svg")]
    text = page(
        "# Speed with and without pruning",
        f"{model}, {options['dtype']}, attention `{options['attention']}`, on {where}. {video}, "
        f"{options['grid'][0]}x{options['grid'][1]} tokens a position, {options['text_tokens']} text tokens, "
        f"{options['new_tokens']} new tokens, greedy. All competitors ran in one process on the same inputs, in turns.",
        f"`{summary['command']}`; commit {summary['commit'] or 'unknown'}{changes}; {summary['versions']}",
        *(f"**Noisy:** {said}." for said in summary["noise"]),
        *(part for cell, rows in cells for part in _cell(*cell, list(rows))),
        *encoder_part(summary.get("encoder", ()), summary.get("encoder_definitions", {})),
        *(("## What the hooks cost when nothing is pruned", overhead_table(overhead)) if overhead else ()),
        *(("## Stage 1 against the length of the video", growth_table(growth)) if growth else ()),
        *(("## Plots", shown) if shown else ()),
        "## What the figures mean",
        [f"- `{name}`: {said}." for name, said in summary["definitions"].items()],
    )
    replace(folder / "report.md", text.encode())
    return summary


def flat_row(row: Row) -> Row:
    """Flatten a row for the CSV: medians, and the quantiles of what is measured as a whole."""
    about = {name: row[name] for name in ("frames", "batch", "variant", "rounds")}
    if "error" in row:
        return {**about, "error": row["error"]}
    flops, ends = row["flops"], {"": "median", "_low": "low", "_high": "high"}
    return {
        **about,
        **{f"{name}_ms{end}": row["ms"][name][which] for name in WHOLE for end, which in ends.items()},
        **{f"{name}_ms": row["parts_ms"][name]["median"] for name in PARTS},
        "prefill_ms": row["prefill_ms"]["median"],
        "read_ms": (row["read_ms"] or {}).get("median", ""),
        **{f"{name}_speedup": value["median"] for name, value in row.get("speedup", {}).items()},
        **{f"{name}_predicted": value for name, value in row.get("predicted", {}).items()},
        "reached": row.get("reached", ""),
        **{f"tokens_{name}": value for name, value in row["tokens"].items()},
        **{name: row[name] for name in ("R1", "R2", "R_layer", "R_kv", "tokens_as_stock")},
        "peak_bytes": row["memory"]["peak"],
        "peak_bytes_above": row["memory"]["above"],
        **{f"cache_bytes_{name}": value for name, value in row["cache_bytes"].items()},
        **{f"flops_{name}": flops[name] for name in ("vision", "stage1", "stage2", "lm_head", "decode_step")},
        "flops_decoder": flops["decoder"]["total"],
        "flops_decoder_causal": flops["decoder"]["total_causal"],
        **{name: flops[name] for name in ("macs_fastv", "macs_fastvid")},
        "sentence": row["sentence"],
    }


def _cell(frames: int, batch: int, rows: list[Row]) -> list[str | list[str]]:
    """Return the parts of the page on one number of frames and batch."""
    ran = [row for row in rows if "error" not in row]
    read = ran[0]["read_ms"] if ran else None
    reading = "not measured: random pixels" if read is None else f"{_spread(read, '.1f')} a video, on the CPU"
    return [
        f"## {frames} frames, batch {batch}",
        [f"- **{row['variant']}**: {row['sentence']}" for row in rows],
        f"Decoding the video and making its pixels: {reading}.",
        *(_figures(name, columns, "variant", ran) for name, columns in _TABLES.items()),
        f"Memory: {ran[0]['memory']['how'] if ran else ''}.",
    ]


def overhead_table(found: list[dict[str, Any]]) -> list[str]:
    """Return the lines on what the hooks cost, from the summary's ``overhead``."""
    told = "Median of the paired differences, 20 % and 80 % quantiles."
    return [told, "", *_figures("model", _OVERHEAD, "shape", found)]


def growth_table(growth: dict[str, Any]) -> list[str]:
    """Return the lines on stage 1 as videos grow, from the summary's ``growth``."""
    told = (
        f"{growth['grid'][0]}x{growth['grid'][1]} tokens a position, C={growth['channels']}, {growth['dtype']}. Time "
        f"grows with the length to the power of {growth['exponent']:.2f} (1 is linear)."
    )
    return [told, "", *_figures("frames", _GROWTH, "frames", growth["points"])]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table in Markdown: the first column to the left, numbers to the right."""
    return Table(head, rows).markdown(others=" ---: ")


def _figures(title: str, columns: str, key: str, rows: list[Row]) -> list[str]:
    """Return the lines of a table; a row that lacks its figures, as the stock model's speed-up, is left out."""
    titles, _, figures = zip(*(column.partition("=") for column in columns.split("; ")), strict=True)
    shown = [row for row in rows if figures[0].partition(".")[0] in row]
    return table([title, *titles], [[str(row[key]), *(_figure(row, each) for each in figures)] for row in shown])


def _figure(row: Row, name: str) -> str:
    first, *inner = name.split(".")
    value, by, form = row[first], _DIVISORS.get(first, 1), _FORMATS.get(first, ".1f")
    for part in inner:
        value = value[part]
    if isinstance(value, dict):
        return _spread(value, form, by)
    return "not measured" if value is None else "0" if first == "flops" and not value else f"{value / by:{form}}"


def _spread(value: dict[str, Any], form: str, by: float = 1) -> str:
    median, low, high = (f"{value[name] / by:{form}}" for name in ("median", "low", "high"))
    return f"{median} [{low}, {high}]"


# ---- plots, each on a light and on a dark page

_HEIGHT = 4.6  # inches
_PARTS = {  # colours apart for colour-blind eyes
    "vision": ("vision encoder", "#0072b2"),
    "stage1": ("stage 1", "#d55e00"),
    "layers": ("decoder layers", "#7f8c99"),
    "stage2": ("stage 2", "#e69f00"),
    "stage3": ("stage 3", "#cc79a7"),
    "lm_head": ("output layer", "#56b4e9"),
    "rest": ("between the parts", "#009e73"),
}
_PANELS = {
    "prefill": "decoder prefill, ms",
    "first_token": "to the first token, ms",
    "end_to_end": "end to end, ms",
}


def _draw_plots(folder: Path, summary: dict[str, Any]) -> list[str]:
    """Draw what a summary holds as svg and png into a folder, and return the files' names."""
    rows = [row for row in summary["rows"] if "error" not in row]
    wanted = {"time": partial(_draw_time, rows), "parts": partial(_draw_parts, rows)} if rows else {}
    if summary["growth"]:
        wanted["growth"] = partial(_draw_growth, summary["growth"])
    drawn = [draw(folder / name, (9.6, _HEIGHT), fill, names_its_maker=True) for name, fill in wanted.items()]
    return [file.name for files in drawn for file in files]


def _draw_time(rows: list[Row], figure: Any, theme: Theme) -> None:
    batches = sorted({row["batch"] for row in rows})
    figure.set_figheight(_HEIGHT * len(batches))
    grid = figure.subplots(len(batches), len(_PANELS), squeeze=False, sharex=True)
    handles: dict[str, Any] = {}
    plain = {"color": theme.ink, "linewidth": 1.8, "marker": "o", "markersize": 4, "zorder": 4}
    styles = {STOCK: {**plain, "linestyle": "-"}, KEEP_EVERYTHING: {**plain, "linestyle": ":"}}
    for batch, line in zip(batches, grid, strict=True):
        shown = [row for row in rows if row["batch"] == batch]
        for (part, title), axes in zip(_PANELS.items(), line, strict=True):
            for name in dict.fromkeys(row["variant"] for row in shown):
                own = [row for row in shown if row["variant"] == name]
                values = [row["prefill_ms"] if part == "prefill" else row["ms"][part] for row in own]
                style = styles.get(name) or style_of("prunevid" if name == "paper" else name, theme)
                handles[name] = _band(axes, [row["frames"] for row in own], values, 1, style)
            _label(axes, title + (f", batch {batch}" if len(batches) > 1 else ""), "frames", "y")
            _by_frames(axes, sorted({row["frames"] for row in shown}))
    figure.subplots_adjust(left=0.07, right=0.985, wspace=0.22)
    said = "Medians; bands from the 20 % to the 80 % quantile. Both axes: log."
    _frame(figure, theme, "Time against frames", said, handles)


def _draw_parts(rows: list[Row], figure: Any, theme: Theme) -> None:
    cells = sorted({(row["batch"], row["frames"]) for row in rows})
    columns = min(3, len(cells))
    lines = -(-len(cells) // columns)
    figure.set_figheight(_HEIGHT * 0.8 * lines + 0.6)
    grid = figure.subplots(lines, columns, squeeze=False)
    for axes in grid.flat[len(cells) :]:
        axes.set_visible(False)
    handles: dict[str, Any] = {}
    for (batch, frames), axes in zip(cells, grid.flat, strict=False):
        own = [row for row in rows if (row["batch"], row["frames"]) == (batch, frames)][::-1]
        names, left = [row["variant"] for row in own], [0.0] * len(own)
        for part, (name, colour) in _PARTS.items():
            widths = [max(0.0, row["parts_ms"][part]["median"]) for row in own]
            handles[name] = axes.barh(names, widths, left=left, color=colour, height=0.66)
            left = [a + b for a, b in zip(left, widths, strict=True)]
        _label(axes, f"{frames} frames, batch {batch}", "ms to the first token", "x")
    figure.subplots_adjust(left=0.13, right=0.985, wspace=0.5, hspace=0.45)
    _frame(figure, theme, "Where the time to the first token goes", "Medians of each part.", handles)


def _draw_growth(growth: dict[str, Any], figure: Any, theme: Theme) -> None:
    points = growth["points"]
    frames = [point["frames"] for point in points]
    left, right = figure.subplots(1, 2)
    style, linear = style_of("prunevid", theme), {"color": theme.quiet, "linestyle": ":", "linewidth": 1.2}
    _band(left, frames, [point["seconds"] for point in points], 1000, style)
    last = points[-1]["seconds"]["median"] * 1000
    left.plot(frames, [last * n / frames[-1] for n in frames], **linear)
    memory = [point["memory"]["above"] for point in points]
    if None not in memory:
        right.plot(frames, [n / 1e6 for n in memory], **style)
    right.plot(frames, [p["input_bytes"] / 1e6 for p in points], **linear)
    titles = "time, ms (dotted: linear)", "peak above the features, MB (dotted: the features)"
    for axes, title in zip((left, right), titles, strict=True):
        _label(axes, title, "frames", "both")
        _by_frames(axes, frames)
    figure.subplots_adjust(left=0.07, right=0.985, bottom=0.12, top=0.78, wspace=0.18)
    said = f"Time grows with the length to the power of {growth['exponent']:.2f}; 1 is linear."
    _frame(figure, theme, "Stage 1 up to an hour of video", said)


def _band(axes: Any, xs: list[int], values: list[dict[str, float]], factor: float, style: dict[str, Any]) -> Any:
    """Draw medians, and a band from the low to the high quantile; return the line."""
    middle, low, high = ([factor * value[end] for value in values] for end in ("median", "low", "high"))
    line = axes.plot(xs, middle, **style)[0]
    axes.fill_between(xs, low, high, color=style["color"], alpha=0.15, linewidth=0)
    return line


def _by_frames(axes: Any, frames: list[int]) -> None:
    """Make both axes logarithmic, the upright one with numbers that read as such, and mark the frames on the other."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=12))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.set_xticks(frames, [str(n) for n in frames])


def _label(axes: Any, title: str, below: str, lines: str) -> None:
    axes.set_title(title, loc="left", fontsize=9.5)
    axes.set_xlabel(below)
    axes.grid(axis=lines)


def _frame(figure: Any, theme: Theme, title: str, below: str, handles: dict[str, Any] | None = None) -> None:
    """Write the heading, and make room for a legend of ``handles`` below it."""
    height = figure.get_figheight()
    if handles is not None:
        figure.subplots_adjust(bottom=0.55 / height, top=1 - 1.15 / height)
        legend(figure, handles, theme, (0.008, 1 - 0.55 / height), ncols=7, fontsize=8.5, columnspacing=1.2)
    heading(figure, theme, title, below, places=(1 - 0.22 / height, 1 - 0.46 / height))
