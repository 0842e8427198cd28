"""What the time of an empty frame is worth at 10 %: ``python -m research.empty_frames_answers --help``.

The second toy, which has Qwen3-VL's timestamps, answers under each method twice: with the text of frames that lost all
their tokens, and without it (``drop_empty_frames``). Writes run.json, answers.jsonl.xz and summary.json under runs/,
which git ignores; what is committed was written with ``--out eval/results/empty_frames_qwen3vl``. A stopped run goes on
where it was: give the same command again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from prunevid_qwen.bundled import BUNDLED
from prunevid_qwen.cli import run_script
from prunevid_qwen.evaluation.report import intervals
from prunevid_qwen.evaluation.shapes.accuracy import ANSWERS, pack_answers
from prunevid_qwen.evaluation.shapes.accuracy_summary import Answers, CellName, clusters, read_answers, read_run
from prunevid_qwen.evaluation.shapes.methods import AccuracyRun, Method, methods_called
from prunevid_qwen.evaluation.store import read_lines, unpack
from research.shapes_run import RUNS, answer, write_summary

BUDGET = 0.10
METHODS = ("recommended", "prunevid", "stage 1 + fastv", "random", "uniform")
DROPPED = ", text dropped"
SECOND_TOY = f"{BUNDLED}-qwen3vl"
VIDEOS, FIRST_SEED, FITTED_ON = 100, 1_007_000_000, 16


def empty_frames_run(videos: int = VIDEOS, model: str = SECOND_TOY) -> AccuracyRun:
    """Return the run: every method at one budget, the text of empty frames kept and dropped."""
    kept = methods_called(list(METHODS))
    dropped = [
        Method(f"{each.name}{DROPPED}", {**each.options, "reading.drop_empty_frames": True}, each.levers)
        for each in kept
    ]
    return AccuracyRun(
        (*methods_called(["unpruned"]), *kept, *dropped),
        (BUDGET,),
        videos=videos,
        first_seed=FIRST_SEED,
        model=model,
        calibration_videos=FITTED_ON,
    )


def summarise_empty_frames(answers: Answers, text: dict[CellName, float], run: dict[str, Any]) -> dict[str, Any]:
    """Compare each method with itself without the text of empty frames.

    Args:
        answers: of the run.
        text: text tokens of a prompt in each cell, as the layers' and the questions' mean.
        run: its record.

    Returns: ``run``: of the record; ``figures``: questions, videos, "unpruned" (accuracy, interval, text tokens) and
        "methods": by name the accuracy with the text, the difference that dropping it makes (dropped less kept, paired,
        with its 95 % interval by video), text tokens both ways, and visual tokens of a prompt.
    """
    unpruned = CellName("unpruned", None)
    whole = answers[unpruned]
    own = intervals.to_dict(
        accuracy=intervals.clustered_mean([each.correct for each in whole.values()], clusters(whole))
    )
    rows: dict[str, Any] = {}
    for method in METHODS:
        kept, dropped = CellName(method, BUDGET), CellName(f"{method}{DROPPED}", BUDGET)
        if kept not in answers:
            continue
        both = list(answers[kept])
        right = [[answers[cell][question].correct for question in both] for cell in (kept, dropped)]
        difference = intervals.paired_difference(right[1], right[0], clusters(both))
        accuracy = intervals.clustered_mean(right[0], clusters(both))
        share = float(np.mean([answers[kept][question].layer_average for question in both]))
        rows[method] = {
            **intervals.to_dict(accuracy=accuracy, difference=difference),
            "text_kept": round(text[kept], 2),
            "text_dropped": round(text[dropped], 2),
            "visual": round(share, 4),
        }
    of_the_run = ("family", "command", "commit", "versions", "seeds", "conditions")
    about = {name: run[name] for name in of_the_run if name in run} | {"model_sha256": run["options"]["model_sha256"]}
    figures = {"budget": BUDGET, "unpruned": {**own, "text": round(text[unpruned], 2)}, "methods": rows}
    return {"schema": 1, "run": about, "figures": figures}


def text_tokens(path: Path) -> dict[CellName, float]:
    """Average the text tokens of the prompts of each cell of ``answers.jsonl``."""
    found: dict[CellName, list[float]] = {}
    for line in read_lines(path):
        found.setdefault(CellName(line["method"], line["budget"]), []).append(line["text_tokens"])
    return {cell: float(np.mean(sorted(counts))) for cell, counts in found.items()}


def main(
    videos: Annotated[int, typer.Option(min=1, help="How many. May grow in a later run.")] = VIDEOS,
    model_path: Annotated[str, typer.Option(help="The second toy, or the folder of another Qwen3-VL.")] = SECOND_TOY,
    out: Annotated[Path | None, typer.Option(help="Default: runs/empty_frames_qwen3vl.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes. Default: one for each core.")] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Throw away what the folder holds.")] = False,
) -> None:
    """Ask about moving shapes under each method, then write the figures."""
    folder = out or RUNS / "empty_frames_qwen3vl"
    answer(folder, empty_frames_run(videos, model_path), workers, restart, "research.empty_frames_answers")
    typer.echo(f"summary: {write_summary(folder, summary_of(folder))}")
    pack_answers(folder)


def summary_of(folder: Path) -> dict[str, Any]:
    """Return the figures of the run in a folder, whose answers lie unpacked after that."""
    unpack(folder / ANSWERS)
    return summarise_empty_frames(read_answers(folder), text_tokens(folder / ANSWERS), read_run(folder))


if __name__ == "__main__":  # worker processes import this file too
    run_script(main)
