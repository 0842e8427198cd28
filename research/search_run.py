"""Search for a better `recommended` on both toys: ``python -m research.search_run search``, then ``... confirm``.

Writes eval/results/search: the raw answers of both toys, packed, and summary.json; ``research.search`` has the rule. A
stopped run goes on where it was: give the same command again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from prunevid_qwen.bundled import TOYS
from prunevid_qwen.cli import run_script
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.evaluation.report import intervals
from prunevid_qwen.evaluation.shapes.accuracy import pack_answers
from prunevid_qwen.evaluation.shapes.accuracy_answers import Answers, CellName, read_answers, read_run
from prunevid_qwen.evaluation.shapes.accuracy_summary import clusters
from prunevid_qwen.evaluation.shapes.methods import UNPRUNED, Method
from research import search
from research.shapes_run import RESULTS, answer, write_summary

FOLDER = RESULTS / "search"
RECOMMENDED = "recommended"
Row = dict[str, Any]


def losses(found: dict[str, Answers], runs: dict[str, Row], methods: Sequence[Method]) -> list[Row]:
    """Return a row for each config of the search: points lost on each toy at each budget, and the score.

    Args:
        found: the answers of each toy.
        runs: what ``run.json`` says of each.
        methods: the configs, and those beside them.

    Returns:
        The best score first; those without one, with the reason, at the end.
    """
    rows = []
    for method in methods:
        lost: Row = {}
        why = ""
        for toy, answers in found.items():
            whole = answers[CellName(UNPRUNED, None)]
            missed = {cell["why"] for cell in runs[toy]["cells"]
                      if cell["method"] == method.name and cell["status"] != "ok"}  # fmt: skip
            why = why or "; ".join(sorted(missed))
            for budget in search.SEARCH_BUDGETS:
                own = answers.get(CellName(method.name, budget), {})
                if own:
                    points = [100 * (own[each].correct - whole[each].correct) for each in own]
                    lost[f"{toy} {budget}"] = round(sum(points) / len(points), 2)
        complete = not why and len(lost) == len(found) * len(search.SEARCH_BUDGETS)
        score = round(sum(lost.values()) / len(lost), 3) if complete else None
        rows.append({"config": method.name, "score": score, "lost": lost, "why": why})
    return sorted(rows, key=lambda row: (row["score"] is None, -(row["score"] or 0.0), row["config"]))


def best(rows: Sequence[Row], methods: Sequence[Method], count: int = search.TRIES) -> list[str]:
    """Return the names of the best scores, at most one of each triple of door, selector and layer."""
    triples = {method.name: tuple(method.options.get(name) for name in ("merger", "selector", "pruning_layer"))
               for method in methods}  # fmt: skip
    chosen: dict[Any, str] = {}
    for row in rows:
        if row["score"] is not None and row["config"] in triples:
            chosen.setdefault(triples[row["config"]], row["config"])
    return list(chosen.values())[:count]


def confirmed(found: dict[str, Answers], names: Sequence[str]) -> list[Row]:
    """Return a row for each config, toy and budget: against unpruned, and against `recommended` at the corrected level.

    The budget None is the mean of a question's differences at 10 % and 5 %: by it the rule decides.
    """
    level, rows = 1 - 0.05 / search.TRIES, []
    for name in (RECOMMENDED, "random", "uniform", *names):
        for toy, answers in found.items():
            whole, questions = answers[CellName(UNPRUNED, None)], []
            budgets = [each for each in search.CONFIRM_BUDGETS if CellName(name, each) in answers]
            for budget in (*budgets, None):
                asked = (0.10, 0.05) if budget is None else (budget,)
                pairs = [(answers.get(CellName(name, each), {}), answers.get(CellName(RECOMMENDED, each), {}))
                         for each in asked]  # fmt: skip
                questions = [each for each in whole if all(each in own and each in base for own, base in pairs)]
                if not questions:
                    continue
                lost = [sum(own[q].correct - whole[q].correct for own, _ in pairs) / len(pairs) for q in questions]
                ahead = [sum(own[q].correct - base[q].correct for own, base in pairs) / len(pairs) for q in questions]
                tokens = sum(own[q].layer_average for own, _ in pairs for q in questions) / len(pairs) / len(questions)
                videos = clusters(questions)
                rows.append({
                    "config": name, "toy": toy, "budget": budget, "tokens": round(tokens, 4),
                    **intervals.to_dict(lost=intervals.clustered_mean(lost, videos),
                                        ahead=intervals.clustered_mean(ahead, videos, level=level)),
                })  # fmt: skip
    return rows


def _read(step: str) -> tuple[dict[str, Answers], dict[str, Row]]:
    folders = {toy: FOLDER / step / toy for toy in TOYS}
    return {toy: read_answers(each) for toy, each in folders.items()}, {
        toy: read_run(each) for toy, each in folders.items()
    }


def main(
    step: Annotated[str, typer.Argument(help="search, confirm, or summary: the figures of what is there.")],
    videos: Annotated[int | None, typer.Option(min=1, help="How many. Default: as the rule says.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes. Default: one for each core.")] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Throw away what the folders hold.")] = False,
) -> None:
    """Ask both toys, then write the figures."""
    if step not in ("search", "confirm", "summary"):
        raise ConfigError(f"the step is search, confirm or summary, got {step!r}")
    methods = [*search.grid()]
    summary: Row = {"schema": 1, "rule": (search.__doc__ or "").strip()}
    if step == "confirm":
        found, runs = _read("search")
        chosen = best(losses(found, runs, methods), methods)
        typer.echo("to be confirmed: " + "; ".join(chosen))
    for toy in TOYS if step != "summary" else ():
        if step == "confirm":
            run = search.confirm_run(toy, chosen, videos or search.CONFIRM_VIDEOS)
        else:
            run = search.search_run(toy, videos or search.SEARCH_VIDEOS)
        answer(FOLDER / step / toy, run, workers, restart, "research.search_run")
        pack_answers(FOLDER / step / toy)
    found, runs = _read("search")
    rows = losses(found, runs, [*search.beside()[1:], *methods])
    summary["search"], chosen = rows, best(rows, methods)
    if all((FOLDER / "confirm" / toy / "run.json").is_file() for toy in TOYS):
        summary["chosen"], summary["confirm"] = chosen, confirmed(_read("confirm")[0], chosen)
    typer.echo(f"summary: {write_summary(FOLDER, summary)}")
    for row in rows[:20]:
        typer.echo(f"{row['score']} {row['config']}: {row['lost']}")
    for row in summary.get("confirm", []):
        typer.echo(str(row))


if __name__ == "__main__":  # worker processes import this file too
    run_script(main)
