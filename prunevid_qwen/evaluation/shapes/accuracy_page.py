"""The pages of the accuracy benchmark: the report on a run, and the comparison of two runs; tables in Markdown."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from prunevid_qwen.bundled import BUNDLED, is_bundled
from prunevid_qwen.evaluation.report.intervals import excludes_zero
from prunevid_qwen.evaluation.report.page import Row, Table, page
from prunevid_qwen.evaluation.report.plots import HIGHLIGHTED
from prunevid_qwen.evaluation.shapes import accuracy_summary
from prunevid_qwen.evaluation.shapes.accuracy_plots import draw_plots
from prunevid_qwen.evaluation.shapes.equal_time import ROUNDS
from prunevid_qwen.evaluation.shapes.methods import CONTROLS, JUDGED, LEAST_KEEP_RATIO, UNPRUNED
from prunevid_qwen.evaluation.store import replace

HEADLINE_BUDGETS = (0.16, 0.10)
PLAIN, GOOD = "plain", 0.96
"""The kind of video that a toy is to know, and the share of its questions from which it knows it well enough."""
UNREACHABLE = "unreachable"
PARTIAL = "†"
_NOTHING = "\N{EN DASH}"

_HOW_TO_READ = f"""\
- **Tokens** are visual tokens averaged over the decoder's layers, as a share of the whole video's: in one column every
  method costs the decoder the same. A method that selects after layer M cannot go below (M + 1) / layers. "Fewer
  frames" and "smaller frames" also save the vision encoder's work, which is not counted here.
- **A budget is reached** by one config for each condition, fitted on other videos: `keep_ratio` first, from 1 down to
  {LEAST_KEEP_RATIO:g} at `cluster_ratio=1` (stage 1 then merges what looks alike over time alone), after that
  `cluster_ratio`. "prunevid published" keeps the paper's `cluster_ratio=0.5` instead; "recommended" moves one of
  them alone. What only merges or only selects has one ratio to move.
- **A difference** is paired, in points, with its 95 % interval (bootstrap, whole videos drawn with replacement).
  **Bold**: the interval leaves out 0, as one in twenty does where nothing differs.
- **Controls** are {", ".join(CONTROLS)}: a method that is not clearly above them is not worth its code.
- **{PARTIAL}**: some conditions could not reach the cell. Its accuracy is over the others alone and must not be
  compared along the row; its difference is paired over the same questions and may be.
- **No video** is the unpruned model shown a grey video of the same length: the floor.
- **Evidence** is the tokens that the asked-about objects cover. A token merged into one that is kept survives by the
  share of that merged token's members that show the same object.
- Methods that draw at random were asked under several random seeds, averaged for each question."""

_TIME = """\
From the video's pixels to the first token of one answer: vision tower, choice of tokens and prefill, one thread, median
of {rounds} rounds, beside the unpruned model's in the same rounds. **A budget is a share of that time**, reached by a
draw by lot between two neighbouring cells of a method (the first is the unpruned model), whose mean time is the budget.
A toy is so small that hooks and the vision tower weigh more than in a real model: a method that pays on a 7B may not
pay here. docs/methods.md has the time to choose at the size of a 7B."""

_LIMITS = """\
This is a toy: a model of a few million parameters, trained from scratch on generated shapes, with 16 or 36 tokens a
frame. It tells on a laptop whether a change to a method breaks it, and which of two methods keeps more of what is asked
about, in a world of few objects. **It says nothing about the accuracy of {family}**: real videos have texture, text
and hundreds of tokens a frame. `min_cluster_tokens` is 1 here, not the authors' 14, which is meant for frames of 140 to
196 tokens. Expect the order of close methods to change on a real model."""


def write_report(folder: Path, plots: bool = True) -> Path:
    """Write ``summary.json``, the plots and ``report.md`` of a complete run; return the path of ``report.md``.

    Raises:
        ConfigError: the run is not complete, and what to do.
        SetupError: matplotlib is not installed; the summary is written by then.
    """
    summary = json.loads(accuracy_summary.write_summary(folder).read_text(encoding="utf-8"))
    if plots:
        draw_plots(summary, folder)
    path = folder / "report.md"
    replace(path, report(summary, plots).encode())
    return path


def report(summary: Row, plots: bool = True) -> str:
    """Return the report on a summary in markdown, with ``plots`` that are drawn beside it."""
    figures = summary["figures"]
    conditions = ", ".join(f"{name} ({row['videos']})" for name, row in figures["conditions"].items())
    run = {**summary["run"], "options": {**summary["run"].get("options", {})}}
    run["options"].pop("methods", None)  # they are long and stand in run.json
    family = summary["run"].get("family", "Qwen2.5-VL")  # records of 0.1 have none: there was one toy
    right, weak = f"{percent(figures['unpruned']['accuracy'])} % are right", weakness(figures)
    if figures["blank"]:
        right += f", of a grey video {percent(figures['blank']['accuracy'])} %"

    left_out = Table(["method", "why"], [list(each) for each in figures.get("left_out", {}).items()]).markdown("---")

    def picture(name: str, alternative: str) -> str:
        dark = f'<source media="(prefers-color-scheme: dark)" srcset="{name}_dark.svg">'
        return f'<picture>{dark}<img alt="{alternative}" src="{name}_light.svg"></picture>' if plots else ""

    return page(
        "# Does pruning keep the answers?",
        f"{figures['questions']} questions about {figures['videos']} held-out videos ({conditions}), asked of "
        f"{model_name(summary)} under every method at every budget. Written by `prunevid bench accuracy`; do not edit.",
        picture("accuracy", "Accuracy against layer-averaged tokens, by method"),
        "## What it says",
        f"Unpruned, {right}. In points, the judged methods against it, each other and the controls at equal cost:",
        weak,
        _judged(figures),
        "## Accuracy",
        "Percent right, and the difference to unpruned on the same questions in points with its 95 % interval.",
        weak,
        _by_budget(figures, _accuracy),
        "## By type of question, way of asking and condition",
        "Difference to unpruned in points.",
        weak,
        picture("types", "Accuracy against layer-averaged tokens, by type of question"),
        *(_by_group(figures, group) for group in ("by_type", "by_way", "by_condition")),
        "## Evidence recall",
        "Percent of the tokens on the asked-about objects that survive / percent of all tokens that survive.",
        weak,
        picture("evidence", "Evidence recall against the share of tokens kept"),
        _by_budget(figures, _evidence),
        "## Tokens",
        "Layer-averaged tokens achieved / the paper's retained ratio (after stage 2, against tokens in), in percent. "
        "The config that reaches each cell stands in `summary.json`.",
        _by_budget(figures, _tokens),
        *_at_equal_time(summary.get("by_time"), figures, picture),
        "## Out of reach",
        _unreachable(figures),
        *(
            ["## Left out", "The model cannot be pruned by these methods. They are in no table above.", left_out]
            if "left_out" in figures
            else []
        ),
        "## How to read it",
        _HOW_TO_READ,
        "## What it cannot say",
        _LIMITS.format(family=family),
        "## What was run",
        [f"- {name.replace('_', ' ')}: `{json.dumps(value, sort_keys=True)}`" for name, value in sorted(run.items())],
        "Is a change better than this, by how much, and is it noise? Run the same command into another folder with "
        "`--against` this one: it says so, question by question.",
    )


def _at_equal_time(by_time: Row | None, figures: Row, picture: Callable[[str, str], str]) -> list[Any]:
    """The part of a report on a run that was timed; [] for another one."""
    if by_time is None:
        return []
    whole = figures["unpruned"]["seconds"]

    def time_of(cell: Row) -> str:
        shares = [each / whole[condition] for condition, each in cell["seconds"].items()]
        return f"{percent(sum(shares) / len(shares), 0)}{_mark(cell)}"

    return [
        "## At equal time to the first token",
        _TIME.format(rounds=ROUNDS),
        picture("time", "Accuracy against time to the first token, by method"),
        _by_budget(by_time, _accuracy),
        "By type of question, the difference to unpruned in points:",
        _by_group(by_time, "by_type"),
        "Evidence recall / all tokens that survive, in percent:",
        _by_budget(by_time, _evidence),
        "Time of each cell at its budget of tokens, as a share of the unpruned model's, in percent:",
        _by_budget(figures, time_of),
        "Out of reach:",
        _unreachable(by_time),
    ]


def model_name(summary: Row) -> str:
    """Return the words by which a page calls the model that was asked."""
    run = summary["run"]
    model = run.get("options", {}).get("model", BUNDLED)
    if model == BUNDLED:
        return "the bundled model"
    if is_bundled(model):
        return f"the bundled model of {run['family']} (`{model}`)"
    return f"the model in `{model}`"


def weakness(figures: Row) -> str:
    """Say that the model does not know plain videos well enough, "" where it does or was not asked about any."""
    plain = figures["unpruned"]["by_condition"].get(PLAIN)
    return "" if plain is None else weakness_of(plain["accuracy"], plain["accuracy_interval"])


def weakness_of(accuracy: float, interval: list[float] | None) -> str:
    """Say that a toy answers too few questions about plain videos unpruned; "" from ``GOOD`` on."""
    if accuracy >= GOOD:
        return ""
    ends = "" if interval is None else f" ({percent(interval[0])} to {percent(interval[1])})"
    return (
        f"**This toy is weak**: unpruned, it answers {percent(accuracy)} %{ends} of the questions about plain videos; "
        f"the aim was {percent(GOOD, 0)} %. A question that it cannot answer anyway hides the loss of pruning."
    )


def percent(share: float, digits: int = 1) -> str:
    """Write a share in percent, without the sign: 0.1234 is 12.3."""
    return f"{100 * share:.{digits}f}"


def points(difference: float) -> str:
    """Write a difference of shares in points, signed, with a true minus: -0.012 is −1.2."""
    return f"{100 * difference:+.1f}".replace("-", "\N{MINUS SIGN}")


def difference(row: Row) -> str:
    """Write a paired difference in points with its interval, bold where that leaves out 0."""
    value, interval = points(row["difference"]), row["difference_interval"]
    if interval is None:
        return f"{value} (one video)"
    shown = f"**{value}**" if excludes_zero(interval) else value
    return f"{shown} [{points(interval[0])}, {points(interval[1])}]"


def _accuracy(cell: Row) -> str:
    return f"{percent(cell['accuracy'])}{_mark(cell)}<br>{difference(cell)}"


def _evidence(cell: Row) -> str:
    shares = cell["evidence"]
    return f"{percent(shares['recall'], 0)} / {percent(shares['kept'], 0)}{_mark(cell)}" if shares else _NOTHING


def _tokens(cell: Row) -> str:
    retained = _NOTHING if cell["retained"] is None else percent(cell["retained"])
    return f"{percent(cell['achieved'])} / {retained}{_mark(cell)}"


def _mark(cell: Row) -> str:
    return f" {PARTIAL}" if cell["unreached"] else ""


def _by_budget(figures: Row, entry: Callable[[Row], str]) -> list[str]:
    """A row for each method, a column for each budget, large ones first; cells without a budget come last."""
    shown = {(cell["method"], cell["budget"]): UNREACHABLE for cell in figures["unreachable"]}
    shown |= {(cell["method"], cell["budget"]): entry(cell) for cell in figures["cells"]}
    budgets = sorted({budget for _, budget in shown}, key=lambda budget: 1.0 if budget is None else -budget)
    head = ["method", *("as it is" if budget is None else f"{percent(budget, 0)} %" for budget in budgets)]
    rows = [[method, *(shown.get((method, budget), "") for budget in budgets)] for method in _in_order(shown)]
    return Table(head, rows).markdown("---")


def _by_group(figures: Row, group: str) -> list[str]:
    """Difference to unpruned in points within each ``group``: "by_condition", "by_type" or "by_way"."""
    before, blank, lines = figures["unpruned"][group], figures["blank"], []
    start = [["unpruned, % right", *(percent(each["accuracy"]) for each in before.values())]]
    start.append(["questions", *(str(each["n"]) for each in before.values())])
    if blank:
        start.append(["no video, % right", *(percent(blank[group][name]["accuracy"]) for name in before)])
    for budget in _headline_budgets(figures):
        cells = {(cell["method"], budget): cell[group] for cell in figures["cells"] if cell["budget"] == budget}
        rows = [
            [method, *(difference(own[name]) if name in own else UNREACHABLE for name in before)]
            for method in _in_order(cells)
            for own in [cells[method, budget]]
        ]
        lines += [f"At {percent(budget, 0)} %:", "", *Table(["", *before], [*start, *rows]).markdown("---"), ""]
    return lines[:-1]


def _judged(figures: Row) -> list[str]:
    """The judged methods against unpruned, the judged ones before them and the controls, at the headline's budgets."""
    cells = [{**cell, "against": UNPRUNED, "conditions": cell["by_condition"]} for cell in figures["cells"]]
    found = {(row["budget"], row["method"], row["against"]): row for row in (*cells, *figures["pairs"])}
    rows = [
        [f"{percent(budget, 0)} %", method, against, difference(row), str(row["n"]), ", ".join(row["conditions"])]
        for budget in _headline_budgets(figures)
        for place, method in enumerate(JUDGED)
        for against in (UNPRUNED, *JUDGED[:place], *CONTROLS)
        if (row := found.get((budget, method, against)))
    ]
    return Table(["at", "method", "against", "difference", "questions", "on"], rows).markdown("---")


def _unreachable(figures: Row) -> list[str]:
    """The cells that were out of reach, budgets of one method, condition and reason together."""
    budgets = defaultdict(list)
    for cell in figures["unreachable"]:
        budget = "no budget" if cell["budget"] is None else f"{percent(cell['budget'], 0)} %"
        budgets[cell["method"], cell["condition"], cell["why"]].append(budget)
    rows = [[method, condition, ", ".join(budgets[method, condition, why]), why] for method, condition, why in budgets]
    return Table(["method", "on", "at", "why"], rows).markdown("---") if rows else ["Nothing."]


def _in_order(methods: Iterable[Any]) -> list[str]:
    """Sort the methods of (method, budget) pairs: those that the plots highlight first, in their order."""
    names = {method for method, _ in methods}
    return [name for name in HIGHLIGHTED if name in names] + sorted(names - HIGHLIGHTED.keys())


def _headline_budgets(figures: Row) -> list[float]:
    """Return the budgets that are written about: the headline's, or all where none of those was run."""
    run = sorted({cell["budget"] for cell in figures["cells"] if cell["budget"] is not None}, reverse=True)
    return [budget for budget in HEADLINE_BUDGETS if budget in run] or run
