"""A published table in words, and what it would take: GPU hours and disk, by arithmetic that is shown.

The estimate is of a Qwen2.5-VL-7B; nothing of it was measured, and a test compares its constants with the FLOPs of the
speed benchmark. Reading videos is work of CPUs beside the GPU and not counted: with too few workers it takes longest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from prunevid_qwen.config import PruneVidConfig, get_baseline_config
from prunevid_qwen.evaluation.published.budget import PUBLISHED_DEPTH, layer_shares
from prunevid_qwen.evaluation.published.table import BASELINE_ROW, PublishedTable, Setting

LAYERS, HIDDEN = 28, 3584
LINEAR = 13.05e9
"""FLOPs of one token in the decoder's products with weights, all 28 layers: 2 for each of 6.5 billion."""
ATTENTION = 4 * HIDDEN * LAYERS
"""FLOPs of one pair of tokens in attention."""
VISION = 5.4e9
"""FLOPs of one visual token in the vision tower: four patches, 32 blocks, a frame's own full attention included."""
SPEED = 0.4 * 312e12
"""FLOP/s: 40 % of what an A100 promises in bfloat16."""
DECODE = 0.03
"""Seconds a token of the answer: 28 to 30 ms on an A100 in GlimpsePrune's table 7."""
OVERHEAD = 0.15
"""Seconds an answer for everything else: assumed."""
FREE = 0.2
"""Share that a cut leaves where the video decides: assumed."""
TIMED_ROUNDS = 5.0
"""How often a timed row answers an image: twice to warm up and for memory, three times for the clock."""

WEIGHTS_GB = 16.6  # 8.29 billion weights of 2 bytes
LINE_KB = 4  # a stored answer


@dataclass(frozen=True)
class Work:
    """How much a data set is.

    Args:
        title: for the line about it.
        questions, videos: of the whole set.
        tokens: visual tokens of a prompt before pruning.
        gigabytes: of the download.
        why: where the gigabytes come from.
        text: other tokens of a prompt.
        answer: tokens of an answer.
    """

    title: str
    questions: int
    videos: int
    tokens: int
    gigabytes: float
    why: str = ""
    text: int = 120
    answer: int = 3


@dataclass(frozen=True)
class Cost:
    """An estimate.

    Args:
        hours: of one A100.
        gigabytes: of data and answers, without the model's weights.
        lines: the arithmetic, a line a data set.
    """

    hours: float
    gigabytes: float
    lines: tuple[str, ...]


def prefill_flops(width: float) -> float:
    """Count the decoder's FLOPs for a prompt whose layers all see ``width`` tokens, text included."""
    return LINEAR * width + ATTENTION * width * width


def estimate(works: Sequence[Work], configs: Sequence[PruneVidConfig], rounds: float = 1.0) -> Cost:
    """Estimate a run of some data sets under some configs; videos are encoded once for all configs.

    Args:
        works: the data sets.
        configs: of a model of 28 layers.
        rounds: how often everything is done.
    """
    lines, hours, whole = [], 0.0, 0.0
    shares = [layer_shares(config, PUBLISHED_DEPTH, free=FREE)[0] for config in configs]
    for work in works:
        vision = work.videos * work.tokens * VISION / SPEED
        prompts = (fmean(prefill_flops(work.tokens * share + work.text) for share in each) for each in shares)
        flops = sum(prompts) / len(configs)
        answer = flops / SPEED + work.answer * DECODE + OVERHEAD
        answers = work.questions * len(configs)
        disk = work.gigabytes + answers * LINE_KB / 1e6
        hours, whole = hours + rounds * (vision + answers * answer) / 3600, whole + disk
        lines.append(
            f"{work.title}: {work.videos} videos x {work.tokens} tokens x {VISION / 1e9:.1f} GFLOP / "
            f"{SPEED / 1e12:.0f} TFLOP/s = {vision / 3600:.1f} h encoding, once; {work.questions} questions x "
            f"{len(configs)} configs x ({flops / 1e12:.0f} TFLOP / {SPEED / 1e12:.0f} TFLOP/s + {work.answer} x "
            f"{DECODE} s + {OVERHEAD} s) = {answers * answer / 3600:.1f} h answering"
            f"{'' if rounds == 1 else f'; all {rounds:g} times'}; disk {gigabytes(disk)} ({work.why})"
        )
    return Cost(hours, whole, tuple(lines))


def gigabytes(value: float) -> str:
    """Say a size in whole gigabytes."""
    return f"{value:.0f} GB" if value >= 1 else "less than 1 GB"


def cost_of(setting: Setting) -> Cost:
    """Estimate what a setting would take."""
    timing, works = setting.timing, []
    for each in setting.sets:
        data = each.data
        questions, videos = (data.questions, data.videos) if timing is None else (timing.images, timing.images)
        works.append(
            Work(data.title, questions, videos, each.tokens, data.gigabytes, data.why, answer=each.answer)
        )  # fmt: skip
    configs = [row.ours.config(PUBLISHED_DEPTH) for row in setting.rows if row.ours is not None]
    if timing is not None:  # the stock model takes part, as long as what prunes nothing
        configs += [get_baseline_config() for row in setting.rows if row.ours is None]
    return estimate(works, configs, 1.0 if timing is None else TIMED_ROUNDS)


def cost_lines(setting: Setting) -> list[str]:
    """Say what a setting would take, with the arithmetic."""
    cost = cost_of(setting)
    return [
        f"About {cost.hours:.1f} hours of one A100, {gigabytes(cost.gigabytes)} of data and answers, {WEIGHTS_GB} GB "
        "of weights. An estimate by the arithmetic below, no measurement; reading videos is work of CPUs and not in "
        "it, an archive needs its room again while it is unpacked.",
        *cost.lines,
    ]


def figure_lines(setting: Setting) -> list[str]:
    """List the published figures, a line a row."""
    if setting.timing is not None:
        return list(setting.timing.figures)
    said = []
    for row in (row for row in setting.rows if row.theirs):
        cells = ", ".join(f"{name} {score:.1f}" for name, score in row.theirs.items())
        kept = f" (kept: {row.kept})" if row.name != BASELINE_ROW else ""
        said.append(f"{row.name}: {cells}{kept}{'' if row.ours else '; not implemented here'}")
    return said


def describe(table: PublishedTable) -> list[str]:
    """Return the lines of ``--help``."""
    lines = [f"{table.paper}, {table.table}.", table.source]
    for setting in table.settings:
        lines += [
            "",
            f"Setting {setting.name}",
            f"  frames: {setting.frames}",
            f"  pixels: {setting.pixels}",
            f"  prompt: {setting.prompt}",
            "  not known:",
            *(f"    {each}" for each in setting.unknown),
            "  published (theirs, in per cent):" if setting.timing is None else "  published (theirs):",
            *(f"    {each}" for each in figure_lines(setting)),
            f"  it would take: {cost_lines(setting)[0]}",
        ]
    return lines
