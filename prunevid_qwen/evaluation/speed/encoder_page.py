"""The tables on the time to the first token with the vision encoder in it."""

from __future__ import annotations

from collections.abc import Sequence

from prunevid_qwen.config.amounts import percent
from prunevid_qwen.evaluation.report.page import Row, Table
from prunevid_qwen.evaluation.speed.contest import STOCK
from prunevid_qwen.evaluation.speed.encoder_contest import FEWER_FRAMES
from prunevid_qwen.evaluation.speed.encoder_findings import named_cell
from prunevid_qwen.evaluation.speed.video_contents import content_name

GAINS = [
    "", "encoded", "encoder's share", "first token, ms", "first token", "predicted", "reached", "encoder", "predicted",
    "prefill", "predicted", "reached",
]  # fmt: skip


def encoder_part(cells: Sequence[Row], definitions: Row) -> list[str | list[str]]:
    """Return the parts of a run's page on the summary's ``encoder``; [] where it was not measured."""
    if not cells:
        return []
    return [
        "## With the vision encoder in it",
        *(part for cell in cells for part in (f"### {named_cell(cell)}", [rho_sentence(cell)], gains_table([cell]))),
        error_lines(cells),
        [f"- `{name}`: {said}." for name, said in definitions.items()],
    ]


def rho_sentence(cell: Row) -> str:
    """Say the stock encoder's share, rho and how many frames the control has."""
    stock = next(row for row in cell["rows"] if row["variant"] == STOCK)
    if "error" in stock:
        return f"The stock model did not run: {stock['error']}."
    said = (
        f"{content_name(cell['content'])[0].upper()}{content_name(cell['content'])[1:]}, {cell['rounds']} rounds: the "
        f"stock encoder takes {percent(stock['encoder_share'])} of the time to the first token. A FLOP in it takes "
        f"{cell['rho']['median']:.2f} times as long as one in the decoder (rho)."
    )
    if cell["chosen"] is not None:
        said += (
            f" The stock model takes as long as `fast` with {cell['chosen']['frames']} of {cell['frames']} frames "
            f"(`{FEWER_FRAMES}`)."
        )
    return said + ("" if cell["noise"] is None else f" **Noisy:** {cell['noise']}.")


def gains_table(cells: Sequence[Row]) -> list[str]:
    """Return the lines of a table with a row for each run, under what stands still."""
    lines = [
        [content_name(cell["content"]), *_gains(row)] for cell in cells for row in cell["rows"] if "error" not in row
    ]
    return Table(["still", *GAINS], lines).markdown(others=" ---: ")


def _gains(row: Row) -> list[str]:
    said = [
        _name(row),
        percent(row["encoded"]),
        percent(row["encoder_share"]),
        f"{row['ms']['first_token']['median']:.0f}",
    ]
    if "speedup" not in row:
        return [*said, *[""] * (len(GAINS) - len(said))]
    gain, predicted, reached = row["speedup"], row["predicted"], row["reached"]
    times = {part: [f"{gain[part]['median']:.2f}x", f"{predicted[part]:.2f}x"] for part in gain}
    both = {part: [*times[part], f"{reached[part]:.2f}"] for part in times}
    return [*said, *both["first_token"], *times["vision"], *both["prefill"]]


def _name(row: Row) -> str:
    shown = f" ({row['frames_shown']})" if row["variant"] == FEWER_FRAMES else ""
    return row["variant"] + shown


def error_lines(cells: Sequence[Row]) -> list[str]:
    """Return a line for each run that could not be measured."""
    return [
        f"- {named_cell(cell)}, {row['variant']}: {row['sentence']}"
        for cell in cells
        for row in cell["rows"]
        if "error" in row
    ]
