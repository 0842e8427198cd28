"""What the vision encoder's reuse costs in accuracy: ``python -m research.vision_accuracy --help``.

A toy answers under towers that encode less, each with the decoder's pruning as it is, and under the plain controls
(fewer and smaller frames), with a still, a shaken and a drifting camera apart. Writes run.json, answers.jsonl.xz and
summary.json under runs/, which git ignores; what is committed was written with ``--out eval/results/vision_accuracy``
(of the second toy: ``--model-path bundled-qwen3vl --out eval/results/vision_accuracy_qwen3vl``). A stopped run goes on
where it was: give the same command again. ``python tools/fill_pages.py`` then writes the table of docs/vision.md.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from prunevid_qwen.bundled import BUNDLED, TOYS, is_bundled
from prunevid_qwen.cli import run_script
from prunevid_qwen.config import ALL_OFF, PruneVidConfig, get_recommended_config
from prunevid_qwen.evaluation.report import intervals
from prunevid_qwen.evaluation.shapes.accuracy import ANSWERS, pack_answers
from prunevid_qwen.evaluation.shapes.accuracy_summary import (
    Answered,
    Answers,
    CellName,
    QuestionName,
    clusters,
    paired,
    read_answers,
    read_run,
)
from prunevid_qwen.evaluation.shapes.methods import UNPRUNED, AccuracyRun, Method, changes
from prunevid_qwen.evaluation.store import read_lines, unpack
from prunevid_qwen.moving_shapes import FIRST_HELD_OUT_SEED
from prunevid_qwen.moving_shapes.conditions import Condition
from research.shapes_run import RUNS, answer, write_summary

RECOMMENDED = "recommended"
CONDITIONS = ("plain", "shake", "drift")
"""A still, a shaken and a drifting camera."""

GROUPS: dict[str, tuple[str, ...]] = {
    "still or shaken": ("plain", "shake"),
    **{name: (name,) for name in CONDITIONS},
    "all": CONDITIONS,
}
"""Kinds of video over which a difference is given; the first is what a preset is judged by."""

Shares = dict[CellName, dict[QuestionName, float]]
"""``vision_average`` of every answer."""

VIDEOS, FIRST_SEED, FITTED_ON = 150, FIRST_HELD_OUT_SEED + 10_000_000, 1
"""Videos of all kinds together, the first one's seed, and calibration videos (no budget is fitted)."""


@dataclass(frozen=True)
class SmallerFrames(Method):
    """A curve that is shown frames with ``side_share`` of a condition's height and width."""

    side_share: float = 1.0

    def base_config(self, condition: Condition) -> PruneVidConfig:
        """Return the config with the limit on a frame's pixels."""
        pixels = int(condition.height * self.side_share) * int(condition.width * self.side_share)
        return super().base_config(condition).replace(max_pixels=pixels)


@dataclass(frozen=True)
class Row:
    """A curve, and the name of the curve that it is compared with."""

    method: Method
    base: str = RECOMMENDED


def vision_rows() -> list[Row]:
    """List what is compared: towers under the recommended decoder and under the stock one, and the controls."""
    stock = _reading(reuse_threshold=None, early_tau=None, early_block=None, reuse_identical=False)
    decoder, identical = changes(get_recommended_config()) | stock, {"reuse_identical": True}
    twice = min(1.0, 2 * get_recommended_config().cluster_ratio)

    def pruned(name: str, **options: Any) -> Row:
        return Row(Method(name, {**decoder, **_reading(**options)}, ()))

    def alone(name: str, **options: Any) -> Row:
        return Row(Method(name, {**ALL_OFF, **stock, **_reading(**options)}, ()), UNPRUNED)

    return [
        Row(Method(RECOMMENDED, decoder, ()), UNPRUNED),
        pruned("recommended + identical", **identical),
        pruned("fast", **identical, reuse_threshold=8.0),
        *(pruned(f"recommended + R {each}", reuse_threshold=float(each)) for each in (2, 4, 8, 16)),
        *(alone(f"R {each} alone", reuse_threshold=float(each)) for each in (8, 16)),
        *(
            pruned(f"recommended + S {block}, {tau}", early_block=block, early_tau=tau)
            for block, tau in ((0, 0.9), (0, 0.8), (1, 0.9), (1, 0.8))
        ),
        alone("S 0, 0.9 alone", early_block=0, early_tau=0.9),
        pruned("fast + S 0, 0.9", **identical, reuse_threshold=8.0, early_block=0, early_tau=0.9),
        Row(Method("half the frames", {**decoder, "max_frames": 8}, ())),
        # a share of half the tokens is half as many: here the decoder keeps as many as under the base
        Row(Method("half the frames, same tokens", {**decoder, "max_frames": 8, "cluster_ratio": twice}, ())),
        Row(SmallerFrames("smaller frames", decoder, (), side_share=0.75)),
    ]


def _reading(**options: Any) -> dict[str, Any]:
    """Return options of `Reading` under the names that `changes` gives them."""
    return {f"reading.{name}": value for name, value in options.items()}


def vision_run(
    videos: int = VIDEOS, model: str = BUNDLED, first_seed: int = FIRST_SEED, timed: bool = False
) -> AccuracyRun:
    """Return the run: every row once, at its own budget."""
    return AccuracyRun(
        tuple(row.method for row in vision_rows()),
        conditions=CONDITIONS,
        videos=videos,
        first_seed=first_seed,
        model=model,
        by="time" if timed else "tokens",
        calibration_videos=FITTED_ON,
    )


def summarise_vision(answers: Answers, vision: Shares, run: dict[str, Any]) -> dict[str, Any]:
    """Compare every row with its base, question by question, by the way in which the camera moves.

    Args:
        answers: of the run.
        vision: visual tokens averaged over the vision encoder's blocks, as a share of the whole video's.
        run: its record.

    Returns:
        "run": of the record; "figures": questions, videos, and "rows", in the order of `vision_rows`: method, base,
        config, "encoder" (mean share by condition), "decoder" (mean share of the layer-averaged tokens), "seconds" if
        the run was timed, and "groups": for each of ``GROUPS``, as `paired`.
    """
    rows = []
    for row in (Row(Method(UNPRUNED, ALL_OFF, ()), UNPRUNED), *vision_rows()):
        name, base = CellName(row.method.name, None), CellName(row.base, None)
        if name not in answers:
            continue
        own = answers[name]
        cells = {cell["condition"]: cell for cell in run["cells"] if cell["method"] == name.method}
        compared = {
            group: found
            for group, kinds in GROUPS.items()
            if (found := _compared(_of_kinds(own, kinds), answers[base]))
        }
        rows.append(
            {
                "method": name.method,
                "base": None if name == base else base.method,
                "config": next(iter(cells.values()))["config"],
                "encoder": _by_condition(vision[name]),
                "decoder": _by_condition({question: each.layer_average for question, each in own.items()}),
                **({"seconds": {k: cell["seconds"] for k, cell in cells.items()}} if _timed(cells) else {}),
                "groups": compared,
            }
        )
    of_the_run = ("family", "command", "commit", "uncommitted_changes", "versions", "machine", "seeds", "conditions")
    about = {name: run[name] for name in of_the_run if name in run} | {"model_sha256": run["options"]["model_sha256"]}
    asked = answers[CellName(UNPRUNED, None)]
    counts = {"questions": len(asked), "videos": len(set(clusters(asked)))}
    return {"schema": 1, "run": about, "figures": {**counts, "rows": rows}}


def _compared(ours: Answered, theirs: Answered) -> dict[str, Any] | None:
    found = paired(ours, theirs)
    if found is not None:
        del found["tokens"]
    return found


def _of_kinds(answered: Answered, kinds: Sequence[str]) -> Answered:
    return {question: each for question, each in answered.items() if question.condition in kinds}


def _by_condition(shares: Mapping[QuestionName, float]) -> dict[str, float]:
    """Average over the videos of each condition: a video with few questions counts as much as another."""
    of_videos: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for question, share in sorted(shares.items()):
        of_videos[question.condition][question.seed].append(share)
    means = {kind: float(np.mean([np.mean(each) for each in own.values()])) for kind, own in of_videos.items()}
    return {kind: intervals.rounded(means[kind]) for kind in CONDITIONS if kind in means}


def _timed(cells: Mapping[str, Any]) -> bool:
    return all("seconds" in cell for cell in cells.values())


def vision_shares(path: Path) -> Shares:
    """Return ``vision_average`` of every answer in ``answers.jsonl``."""
    found: Shares = defaultdict(dict)
    for line in read_lines(path):
        question = QuestionName(line["condition"], line["seed"], line["question"])
        found[CellName(line["method"], line["budget"])][question] = line["vision_average"]
    return found


def summary_of(folder: Path) -> dict[str, Any]:
    """Return the figures of the run in a folder, whose answers lie unpacked after that."""
    unpack(folder / ANSWERS)
    return summarise_vision(read_answers(folder), vision_shares(folder / ANSWERS), read_run(folder))


def main(
    videos: Annotated[int, typer.Option(min=1, help="Of all kinds. May grow in a later run.")] = VIDEOS,
    model_path: Annotated[str, typer.Option(help=f"{', '.join(TOYS)}, or the folder of an exported model.")] = BUNDLED,
    first_seed: Annotated[int, typer.Option(help="The first video's; later ones count on from it.")] = FIRST_SEED,
    timed: Annotated[bool, typer.Option("--timed", help="Time every row too, on an idle machine.")] = False,
    out: Annotated[Path | None, typer.Option(help="Default: below runs/, by the model.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes. Default: one for each core.")] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Throw away what the folder holds.")] = False,
) -> None:
    """Ask about moving shapes under each way to encode them, then write the figures."""
    folder = out or RUNS / folder_name(model_path)
    answer(folder, vision_run(videos, model_path, first_seed, timed), workers, restart, "research.vision_accuracy")
    typer.echo(f"summary: {write_summary(folder, summary_of(folder))}")
    pack_answers(folder)


def folder_name(model: str) -> str:
    """Return the name of the folder of a model's run: of the first toy without the model's name."""
    name = model.removeprefix(BUNDLED) if is_bundled(model) else f"-{Path(model).name}"
    return f"vision_accuracy{name.replace('-', '_')}"


if __name__ == "__main__":  # worker processes import this file too
    run_script(main)
