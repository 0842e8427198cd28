"""A published table in words: whose figures, under what setting, what is not known, what it would take."""

from __future__ import annotations

from dataclasses import replace

from prunevid_qwen.evaluation.reproduction.budget import PUBLISHED_DEPTH
from prunevid_qwen.evaluation.reproduction.cost import WEIGHTS_GB, Cost, estimate, gigabytes
from prunevid_qwen.evaluation.reproduction.published import BASELINE_ROW, PublishedTable, Setting, Timed, baseline

TIMED_ROUNDS = 5.0
"""How often each row of a `Timed` answers an image: twice to warm up and for memory, three times for the clock."""


def cost_of(setting: Setting | Timed) -> Cost:
    """Estimate what a setting would take."""
    timed = isinstance(setting, Timed)  # the stock model takes part, as long as what prunes nothing
    rows = [row.config or (baseline if timed else None) for row in setting.rows]
    configs = [config(PUBLISHED_DEPTH) for config in rows if config is not None]
    works = [(each.title, each.work) for each in setting.asked]
    if isinstance(setting, Timed):
        works = [(title, replace(work, questions=setting.images, videos=setting.images)) for title, work in works]
        return estimate(works, configs, TIMED_ROUNDS)
    return estimate(works, configs)


def cost_lines(setting: Setting | Timed) -> list[str]:
    """Say what a setting would take, with the arithmetic."""
    cost = cost_of(setting)
    return [
        f"About {cost.hours:.1f} hours of one A100, {gigabytes(cost.gigabytes)} of data and answers, {WEIGHTS_GB} GB "
        "of weights. An estimate by the arithmetic below, no measurement; reading videos is work of CPUs and not in "
        "it, an archive needs its room again while it is unpacked.",
        *cost.lines,
    ]


def figure_lines(setting: Setting | Timed) -> list[str]:
    """List the published figures, a line a row."""
    if isinstance(setting, Timed):
        return list(setting.published)
    said = []
    for row in setting.rows:
        if row.published:
            cells = ", ".join(f"{name} {figure.score:.1f}" for name, figure in row.published.items())
            kept = f" (kept: {row.kept})" if row.name != BASELINE_ROW else ""
            here = "" if row.config is not None else "; not implemented here"
            said.append(f"{row.name}: {cells}{kept}{here}")
    return said


def describe(table: PublishedTable) -> list[str]:
    """Return what stands in ``--help``."""
    lines = [table.paper + ", " + table.table + ".", table.source]
    for setting in table.settings:
        lines += [
            "",
            f"Setting {setting.name}",
            f"  frames: {setting.frames}",
            f"  pixels: {setting.pixels}",
            f"  prompt: {setting.prompt}",
            "  not known:",
            *(f"    {each}" for each in setting.unknown),
            "  published (theirs, in per cent):" if isinstance(setting, Setting) else "  published (theirs):",
            *(f"    {each}" for each in figure_lines(setting)),
            f"  it would take: {cost_lines(setting)[0]}",
        ]
    return lines
