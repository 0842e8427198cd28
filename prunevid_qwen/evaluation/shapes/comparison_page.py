"""The page that compares two runs of the accuracy benchmark: Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from prunevid_qwen.evaluation.report.page import Row, Table, flat, page
from prunevid_qwen.evaluation.shapes import accuracy_summary
from prunevid_qwen.evaluation.shapes.accuracy_page import percent


def compare_folders(new: Path, baseline: Path) -> str:
    """Compare the runs in two folders: a page on what became better or worse, by how much, and what is noise.

    Raises:
        ConfigError: a folder holds no complete run, or the two were not asked the same questions.
    """
    answers = [accuracy_summary.read_answers(folder) for folder in (new, baseline)]
    runs = [accuracy_summary.read_run(folder) for folder in (new, baseline)]
    for each, run in zip(answers, runs, strict=True):
        accuracy_summary.summarise(each, run)  # refuses what is not complete
    rows = accuracy_summary.compare(*answers)
    cells = [row for row in rows if row["budget"] != "all"]
    verdicts = Counter(row["verdict"] for row in cells)
    now, before = (flat({name: run.get(name) for name in ("commit", "versions", "options", "machine")}) for run in runs)
    changed = [name for name in {**before, **now} if now.get(name) != before.get(name)]
    costly = sum(not row["same_cost"] for row in cells)
    columns: dict[str, Callable[[Row], str]] = {
        "method": lambda row: row["method"],
        "budget": lambda row: f"{100 * row['budget']:g} %" if isinstance(row["budget"], float) else row["budget"] or "",
        "tokens, new": lambda row: f"{percent(row['tokens'][0])} %",
        "tokens, baseline": lambda row: f"{percent(row['tokens'][1])} %" + ("" if row["same_cost"] else " *"),
        "points": lambda row: f"{100 * row['difference']:+.1f}",
        "interval": lambda row: (
            " to ".join(f"{100 * end:+.1f}" for end in row["difference_interval"] or ()) or "one video"
        ),
        "questions": lambda row: str(row["n"]),
        "verdict": lambda row: row["verdict"] if row["verdict"] == "within noise" else f"**{row['verdict']}**",
    }
    ours, theirs = (each.keys() for each in answers)
    only = {new: ours - theirs, baseline: theirs - ours}
    return page(
        f"# {new.name} against {baseline.name}",
        f"Of {len(cells)} cells {verdicts['better']} are better, {verdicts['worse']} worse, {verdicts['within noise']} "
        f"within noise (about {max(1, round(0.05 * len(cells)))} would stand out by chance). {costly} do not cost "
        "the same in both runs (marked *): their points are not at equal cost.",
        "What differs between the runs:" if changed else "Same commit, versions and options.",
        [f"- {name.replace('_', ' ', 1)}: {now.get(name)} (baseline {before.get(name)})" for name in changed],
        "Points are new less baseline, paired over the questions that both were asked; intervals are 95 %, bootstrap\n"
        "over videos. A row with budget `all` takes a method's budgets together: a question counts once for each.",
        Table(list(columns), [[write(row) for write in columns.values()] for row in rows]).markdown("---"),
        [f"- only in {side.name}: {', '.join(sorted(map(str, names)))}" for side, names in only.items() if names],
    )
