"""A published table in words, and what it would take: GPU hours and disk, by arithmetic that is shown.

The estimate is of a Qwen2.5-VL-7B; nothing of it was measured, and a test compares its constants with the FLOPs of the
speed benchmark. Reading videos is work of CPUs beside the GPU and not counted: with too few workers it takes longest.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

from prunevid_qwen.config import PruneVidConfig, get_baseline_config
from prunevid_qwen.evaluation.published.budget import PUBLISHED_DEPTH, layer_shares
from prunevid_qwen.evaluation.published.table import BASELINE_ROW, PublishedTable, Setting

LINEAR = 13.05e9  # FLOPs of a token in the decoder's products with weights, 28 layers: 2 for each of 6.5 billion
ATTENTION = 4 * 3584 * 28  # FLOPs of a pair of tokens in attention
VISION = 5.4e9  # FLOPs of a visual token in the vision tower: four patches, 32 blocks, a frame's full attention
SPEED = 0.4 * 312e12  # FLOP/s: 40 % of what an A100 promises in bfloat16
DECODE = 0.03  # seconds a token of the answer: 28 to 30 ms on an A100 in GlimpsePrune's table 7
OVERHEAD = 0.15  # seconds an answer for everything else: assumed
FREE = 0.2  # share that a cut leaves where the video decides: assumed
TIMED_ROUNDS = 5.0  # answers of a timed row to an image: two to warm up and for memory, three for the clock
TEXT = 120  # tokens of a prompt beside the visual ones
WEIGHTS_GB = 16.6  # 8.29 billion weights of 2 bytes
LINE_KB = 4  # a stored answer


class Cost(NamedTuple):
    """Hours of one A100, gigabytes of data and answers without weights, and the arithmetic, a line a data set."""

    hours: float
    gigabytes: float
    lines: list[str]


def prefill_flops(width: float) -> float:
    """Count the decoder's FLOPs for a prompt whose layers all see ``width`` tokens, text included."""
    return LINEAR * width + ATTENTION * width * width


def answer_cost(
    configs: Sequence[PruneVidConfig], tokens: int, text: int = TEXT, answer: int = 0
) -> tuple[float, float]:
    """Return the decoder's FLOPs for a prompt and the seconds of an answer, means over configs.

    ``tokens`` are the prompt's visual ones before pruning, ``text`` its others, ``answer`` the answer's.
    """
    shares = [layer_shares(config, PUBLISHED_DEPTH, free=FREE)[0] for config in configs]
    flops = sum(fmean(prefill_flops(tokens * share + text) for share in each) for each in shares) / len(configs)
    return flops, flops / SPEED + answer * DECODE + OVERHEAD


def cost_of(setting: Setting) -> Cost:
    """Estimate what a setting would take; videos are encoded once for all rows, by lmms-eval once for each."""
    configs = [row.ours.config(PUBLISHED_DEPTH) for row in setting.rows if row.ours is not None]
    if setting.timed:  # the stock model takes part, as long as what prunes nothing
        configs += [get_baseline_config() for row in setting.rows if row.ours is None]
    lines, hours, whole, rounds = [], 0.0, 0.0, TIMED_ROUNDS if setting.timed else 1.0
    encodings = len(configs) if setting.through_lmms else 1
    for each in setting.sets:
        data = each.data
        questions, videos = (setting.images or number for number in (data.questions, data.videos))
        vision = videos * each.tokens * VISION / SPEED
        flops, answer = answer_cost(configs, each.tokens, answer=each.answer)
        answers = questions * len(configs)
        disk = data.gigabytes + answers * LINE_KB / 1e6
        hours, whole = hours + rounds * (encodings * vision + answers * answer) / 3600, whole + disk
        lines.append(
            f"{data.title}: {videos} {'images' if data.task else 'videos'} x {each.tokens} tokens x "
            f"{VISION / 1e9:.1f} GFLOP / {SPEED / 1e12:.0f} TFLOP/s = {vision / 3600:.1f} h encoding, "
            f"{'once' if encodings == 1 else f'{encodings} times'}; {questions} questions x "
            f"{len(configs)} configs x ({flops / 1e12:.0f} TFLOP / {SPEED / 1e12:.0f} TFLOP/s + {each.answer} x "
            f"{DECODE} s + {OVERHEAD} s) = {answers * answer / 3600:.1f} h answering"
            f"{'' if rounds == 1 else f'; all {rounds:g} times'}; disk {gigabytes(disk)} ({data.why})"
        )
    return Cost(hours, whole, lines)


def gigabytes(value: float) -> str:
    """Say a size in whole gigabytes."""
    return f"{value:.0f} GB" if value >= 1 else "less than 1 GB"


def cost_lines(setting: Setting) -> list[str]:
    """Say what a setting would take, with the arithmetic."""
    cost, timed = (
        cost_of(setting),
        "Times, memory and speed-ups need the GPU that they are about; tokens, cache lengths",
    )
    total = (
        f"About {cost.hours:.1f} hours of one A100, {gigabytes(cost.gigabytes)} of data and answers, {WEIGHTS_GB} GB "
        "of weights. An estimate by the arithmetic below, no measurement; reading videos is work of CPUs and not in "
        "it, an archive needs its room again while it is unpacked."
    )
    return [total, *cost.lines, *([f"{timed} and FLOPs need none, only the model."] if setting.timed else ())]


def figure_lines(setting: Setting) -> list[str]:
    """List the published figures, a line a row."""
    if setting.timed:
        return list(setting.figures)
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
        lines += ["", f"Setting {setting.name}"]
        lines += [f"  {part}: {getattr(setting, part)}" for part in ("frames", "pixels", "prompt")]
        lines += ["  not known:", *(f"    {each}" for each in setting.unknown)]
        lines += [f"  published (theirs{'' if setting.timed or setting.through_lmms else ', in per cent'}):"]
        lines += [f"    {each}" for each in figure_lines(setting)]
        lines += [f"  it would take: {cost_lines(setting)[0]}"]
    return lines
