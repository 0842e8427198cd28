"""`prunevid tune budget` on videos whose answers are known: ``python -m research.tune_budget`` writes a record of it.

The record is eval/results/tune_budget.json. The first toy is asked about moving shapes, written to real files. A budget
is chosen for several promises, from the same answers. The known answers, which the choice never sees, then say what the
budget costs in right answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import torch
import typer

from prunevid_qwen import PrunedVLM
from prunevid_qwen.cli import run_script
from prunevid_qwen.config import get_config
from prunevid_qwen.evaluation.report import intervals
from prunevid_qwen.evaluation.report.page import json_text
from prunevid_qwen.evaluation.shapes.videos import ShapesVideo
from prunevid_qwen.evaluation.speed.speed_run import hardware
from prunevid_qwen.evaluation.store import surroundings
from prunevid_qwen.evaluation.tuning.choosing import chosen, configs_of
from prunevid_qwen.evaluation.tuning.same_answers import Agreeing, VideoAnswers, answered, same_words
from prunevid_qwen.moving_shapes import FIRST_HELD_OUT_SEED, write_video
from prunevid_qwen.moving_shapes.conditions import CONDITIONS, SECONDS
from prunevid_qwen.receipt import versions
from research.shapes_run import RESULTS, command_of

FIRST_SEED = FIRST_HELD_OUT_SEED + 15_000_000
"""The clips that are measured: no other run uses them."""

PRESET, OPTION = "recommended", "cluster_ratio"
BUDGETS = (0.8, 0.6, 0.5, 0.4, 0.3, 0.2)
PROMISES = (0.02, 0.05, 0.1)
KINDS = [each for each in CONDITIONS.values() if each.frames == 16]
"""Those that one config samples alike."""

QUESTIONS, RATE = 8, 16


def right(videos: Sequence[VideoAnswers], known: Sequence[Sequence[str]], budget: float) -> dict[str, Any]:
    """Return the share of right answers at a budget and without pruning, and their difference, by video."""
    rows = [
        (video.video, same_words(pruned, answer), same_words(stock, answer))
        for video, answers in zip(videos, known, strict=True)
        for pruned, stock, answer in zip(video.under[budget].answers, video.unpruned, answers, strict=True)
    ]
    names = [name for name, _, _ in rows]
    pruned, stock = [float(each) for _, each, _ in rows], [float(each) for _, _, each in rows]
    return intervals.to_dict(
        right=intervals.clustered_mean(pruned, names),
        unpruned=intervals.clustered_mean(stock, names),
        difference=intervals.paired_difference(pruned, stock, names),
    )


def main(
    videos: Annotated[int, typer.Option(min=2, help="Clips, kinds taking turns.")] = 420,
    first_seed: Annotated[int, typer.Option(help="Seed of the first clip.")] = FIRST_SEED,
    threads: Annotated[int, typer.Option(min=1, help="Torch threads.")] = 1,
    out: Annotated[Path, typer.Option(help="The record.")] = RESULTS / "tune_budget.json",
) -> None:
    """Choose budgets for several promises on clips of every kind, and hold them against the known answers."""
    about = surroundings()
    torch.set_num_threads(threads)
    lever, configs = configs_of(get_config(PRESET), BUDGETS, OPTION)
    model = PrunedVLM("bundled", get_config(PRESET), device="cpu", dtype="float32")
    answers, known = [], []
    with TemporaryDirectory() as folder:
        for number in range(videos):
            video = ShapesVideo(KINDS[number % len(KINDS)], first_seed + number)
            path = write_video(Path(folder) / "clip.mp4", video.frames(int(SECONDS * RATE)), RATE)
            asked = [each for each in video.questions(2 * QUESTIONS) if not each.multiple_choice]  # it answers in words
            own = answered(model, str(path), [each.text for each in asked], configs, Agreeing(max_new_tokens=2))
            answers.append(VideoAnswers(f"{video.condition.name} {video.seed}", own.questions, own.unpruned, own.under))
            known.append([each.answer for each in asked])
            if number % 20 == 19:
                typer.echo(f"{number + 1} of {videos} clips", err=True)
    found = [chosen(answers, promise) for promise in PROMISES]
    held_out = set(found[0]["videos"]["held_out"])
    kept = [(own, told) for own, told in zip(answers, known, strict=True) if own.video in held_out]
    record = {
        "what": "the first toy: the smallest budget whose answers are the unpruned model's, chosen without labels",
        "command": command_of("research.tune_budget"),
        "preset": PRESET,
        "option": lever,
        "clips": {"kinds": [each.name for each in KINDS], "count": videos, "first_seed": first_seed},
        "rows": found[0]["rows"],
        "level": found[0]["level"],
        "choices": [{name: each[name] for name in ("promise", "chosen", "held")} for each in found],
        "right": [
            {"budget": budget, **right([own for own, _ in kept], [told for _, told in kept], budget)}
            for budget in configs
        ],
        "config": get_config(PRESET).flat(),
        "hardware": hardware("cpu"),
        "versions": versions(),
        **about,
    }
    out.write_text(json_text(record), encoding="utf-8")
    typer.echo(json_text(record["choices"]))


if __name__ == "__main__":
    run_script(main)
