"""What helps the vision encoder under a moving camera: ``python -m research.moving_camera`` writes a record of it.

The record is eval/results/moving_camera.json. The first toy is asked about clips whose camera drifts. Candidates encode
less: what hardly moved is copied, by pixels (R: ``reuse_threshold``) or by states after an early block (S:
``early_block``, ``early_tau``), or positions are merged in pairs (`research.position_pairs`). The controls are fewer
frames and fewer pixels. Everything is timed in one process, in turns, and each candidate stands beside the control that
takes as long. The decoder's preset is ``recommended`` for all; of fewer frames or pixels it keeps its share, so fewer
tokens.
"""

from __future__ import annotations

import json
import lzma
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import torch
import typer

from prunevid_qwen import PruneVidQwen25VL, get_baseline_config
from prunevid_qwen.adapters.vision import EncodedVideos
from prunevid_qwen.cli import run_script
from prunevid_qwen.config import PruneVidConfig, get_recommended_config
from prunevid_qwen.evaluation.report import intervals
from prunevid_qwen.evaluation.report.page import json_text
from prunevid_qwen.evaluation.shapes.methods import Method, changes
from prunevid_qwen.evaluation.shapes.videos import Questioner, ShapesVideo
from prunevid_qwen.evaluation.speed.speed_run import hardware
from prunevid_qwen.evaluation.speed.vision_candidates import Candidates
from prunevid_qwen.evaluation.speed.vision_tuning import count_video, figures
from prunevid_qwen.evaluation.store import surroundings
from prunevid_qwen.forward.plan import compile_plan
from prunevid_qwen.forward.reuse import encoding_ahead
from prunevid_qwen.inputs.qwen.media import Medium
from prunevid_qwen.moving_shapes import FIRST_HELD_OUT_SEED
from prunevid_qwen.moving_shapes.conditions import BY_NAME
from prunevid_qwen.receipt import versions
from prunevid_qwen.vision.carried import Carried
from research.position_pairs import pairs_merged
from research.shapes_run import RESULTS, command_of
from research.vision_accuracy import SmallerFrames

DRIFT = BY_NAME["drift"]
STOCK = "stock encoder"
FIRST_SEED = FIRST_HELD_OUT_SEED + 11_000_000
TUNED_ON, TUNED = FIRST_HELD_OUT_SEED + 12_000_000, 20
"""First seed and number of the clips on which the agreement of S with stage 1 is counted."""

BLOCKS, TAUS = (0, 1), (0.98, 0.95, 0.9, 0.8)


@dataclass(frozen=True)
class Row:
    """A way to encode: how it is called, its kind, how it is read and pruned, and after which block it pairs."""

    name: str
    kind: str  # "base", "candidate" or "control"
    method: Method
    pairs_after: int | None = None

    @property
    def config(self) -> PruneVidConfig:
        """The config for a drifting clip."""
        return self.method.base_config(DRIFT)


def rows() -> list[Row]:
    """List what is compared, the stock encoder first."""
    reading = {"reading.reuse_threshold": None, "reading.reuse_identical": False}
    decoder = changes(get_recommended_config()) | reading

    def early(block: int, tau: float) -> Method:
        return Method("", {**decoder, "reading.early_block": block, "reading.early_tau": tau}, ())

    whole = Method("", decoder, ())
    return [
        Row(STOCK, "base", whole),
        Row("R 8", "candidate", Method("", {**decoder, "reading.reuse_threshold": 8.0}, ())),
        *(
            Row(f"S {block}, {tau}", "candidate", early(block, tau))
            for block, tau in ((0, 0.95), (0, 0.9), (0, 0.8), (1, 0.95), (1, 0.9))
        ),
        *(Row(f"pairs after block {block}", "candidate", whole, block) for block in BLOCKS),
        *(
            Row(f"{count} frames", "control", Method("", {**decoder, "max_frames": count}, ()))
            for count in (14, 12, 10, 8, 6)
        ),
        *(
            Row(f"{side} x {side} pixels", "control", SmallerFrames("", decoder, (), side_share=side / DRIFT.height))
            for side in (140, 112)
        ),
    ]


class MovingAsker(Questioner):
    """Asks about one video with a tower that merges pairs of positions after ``pairs_after``; None: as the config."""

    def told(self, row: Row) -> list[bool]:
        """Ask every question as ``row`` encodes the video; return which answers are right."""
        self._looks.clear()
        with self.tower(row):
            self.look(row.config)  # held, and asked about below
        return [line["correct"] for line in self.ask(row.config)]

    @contextmanager
    def tower(self, row: Row) -> Iterator[None]:
        """Let the tower be that of ``row``."""
        merging = row.pairs_after is not None
        with pairs_merged(self.adapter.parts.vision, row.pairs_after or 0) if merging else nullcontext():
            yield

    def medium(self, row: Row) -> Medium:
        """Return the pixels as ``row`` reads them."""
        return self._medium(row.config)

    @torch.no_grad()
    def seconds(self, row: Row, medium: Medium) -> float:
        """Time the encoder on one video."""
        plan = compile_plan(row.config, len(self.adapter.parts.layers))
        held = EncodedVideos(self.adapter.parts.vision)
        reuse = None if medium.encoded is None else Carried(medium.encoded)
        with encoding_ahead(self.adapter, plan), self.tower(row):
            began = time.perf_counter()
            held.encode(medium.pixels, medium.grid, reuse)
            return time.perf_counter() - began


def time_rows(model: PruneVidQwen25VL, seeds: Sequence[int], rounds: int) -> dict[str, float]:
    """Return the median seconds of the encoder for each row: clips in turn, rows interleaved in each round."""
    found: dict[str, list[float]] = {row.name: [] for row in rows()}
    for seed in seeds:
        asker = MovingAsker(model, ShapesVideo(DRIFT, seed), [])
        media = {row.name: asker.medium(row) for row in rows()}
        for turn in range(rounds + 1):
            for row in rows():
                taken = asker.seconds(row, media[row.name])
                if turn:  # the first warms up
                    found[row.name].append(taken)
    return {name: float(np.median(each)) for name, each in found.items()}


def tune(model: PruneVidQwen25VL) -> dict[str, Any]:
    """Count how often stage 1 agrees with what S would copy, as `prunevid tune vision` does, on drifting clips."""
    candidates, counted = Candidates(blocks=BLOCKS, taus=TAUS), []
    config = get_recommended_config().replace(max_frames=DRIFT.frames)
    with TemporaryDirectory() as folder:
        for seed in range(TUNED_ON, TUNED_ON + TUNED):
            path = ShapesVideo(DRIFT, seed).write(Path(folder) / f"{seed}.mp4")
            counted.append(count_video(model, config, str(path), candidates, lambda _done, _all: None))
    found = figures(counted, candidates, model.model.config.vision_config.depth)
    early = [row for row in found["early"] if row["reuse_threshold"] is None]
    return {"clips": TUNED, "reuse_threshold": found["reuse_threshold"], "early": early}


def beside(seconds: dict[str, float], kinds: dict[str, str]) -> dict[str, str | None]:
    """Return for each candidate the fastest control that still takes at least as long, or None."""
    controls = {name: each for name, each in seconds.items() if kinds[name] == "control"}
    found = {}
    for name, own in seconds.items():
        if kinds[name] == "candidate":
            slower = {control: each for control, each in controls.items() if each >= own}
            found[name] = min(slower, key=lambda control: slower[control], default=None)
    return found


def summarise(seconds: dict[str, float], right: dict[str, dict[str, list[bool]]]) -> list[dict[str, Any]]:
    """Compare each row with the stock encoder, and each candidate with the control that takes as long.

    Args:
        seconds: of the encoder, by row.
        right: by row and seed, which answers are right.

    Returns:
        For each row: name, kind, "time" (share of the stock encoder's), "accuracy", "points" against the stock encoder
        with interval, and of a candidate "control" and "over_control" with interval.
    """
    kinds = {row.name: row.kind for row in rows()}
    controls, out = beside(seconds, kinds), []

    def flat(name: str) -> tuple[list[bool], list[str]]:
        own = right[name]
        return [one for seed in own for one in own[seed]], [seed for seed in own for _ in own[seed]]

    for name in right:
        answers, videos = flat(name)
        found: dict[str, Any] = {
            "row": name,
            "kind": kinds[name],
            "time": intervals.rounded(seconds[name] / seconds[STOCK]),
            "accuracy": intervals.rounded(float(np.mean(answers))),
        }
        if name != STOCK:
            points = intervals.paired_difference(answers, flat(STOCK)[0], videos)
            found |= intervals.to_dict(points=points)
        if kinds[name] == "candidate":
            found["control"] = control = controls[name]
            if control is not None:
                over = intervals.paired_difference(answers, flat(control)[0], videos)
                found |= {k: v for k, v in intervals.to_dict(over_control=over).items() if "over" in k}
        out.append(found)
    return out


def main(
    videos: Annotated[int, typer.Option(min=1, help="Drifting clips that are asked about, 12 questions each.")] = 90,
    timed: Annotated[int, typer.Option(min=1, help="Clips on which the encoder is timed.")] = 5,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds a clip.")] = 9,
    threads: Annotated[int, typer.Option(min=1, help="Torch threads.")] = 1,
    out: Annotated[Path, typer.Option(help="The record; raw answers are packed beside it.")] = (
        RESULTS / "moving_camera.json"
    ),
) -> None:
    """Time and ask about drifting clips under every way to encode them; time needs an idle machine."""
    about = surroundings()
    torch.set_num_threads(threads)
    model = PruneVidQwen25VL("bundled", get_baseline_config(), device="cpu", dtype="float32")
    seconds = time_rows(model, range(FIRST_SEED, FIRST_SEED + timed), rounds)
    tuned = tune(model)
    right: dict[str, dict[str, list[bool]]] = {row.name: {} for row in rows()}
    for seed in range(FIRST_SEED, FIRST_SEED + videos):
        video = ShapesVideo(DRIFT, seed)
        asker = MovingAsker(model, video, video.questions(12))
        for row in rows():
            right[row.name][str(seed)] = asker.told(row)
        typer.echo(f"{seed - FIRST_SEED + 1} of {videos} clips", err=True)
    record = {
        "what": "the first toy under a drifting camera: its vision encoder's time, and its answers",
        "command": command_of("research.moving_camera"),
        "videos": videos,
        "questions": sum(len(each) for each in right[STOCK].values()),
        "seeds": [FIRST_SEED, FIRST_SEED + videos - 1],
        "milliseconds": {name: round(1000 * each, 3) for name, each in seconds.items()},
        "timed": {"clips": timed, "rounds": rounds, "threads": threads},
        "rows": summarise(seconds, right),
        "agreement": tuned,
        "hardware": hardware("cpu"),
        "versions": versions(),
        **about,
    }
    out.write_text(json_text(record), encoding="utf-8")
    raw = {row.name: {"config": row.config.flat(), "right": right[row.name]} for row in rows()}
    with lzma.open(out.with_suffix(".answers.json.xz"), "wt", encoding="utf-8") as file:
        json.dump(raw, file)
    typer.echo(json_text(record["rows"]))


if __name__ == "__main__":
    run_script(main)
