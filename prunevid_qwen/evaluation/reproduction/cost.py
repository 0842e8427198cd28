"""What a table would take: GPU hours and disk, by arithmetic that is shown. An estimate; nothing of it was measured.

Counted is a Qwen2.5-VL-7B; a test compares the constants with `speed.flops`. Reading videos is work of CPUs beside
the GPU and not counted: with too few workers it is what takes long.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.evaluation.reproduction.budget import PUBLISHED_DEPTH, layer_shares

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

_FREE = 0.2
"""Share that a cut leaves where what is seen decides: assumed."""

WEIGHTS_GB = 16.6  # 8.29 billion weights of 2 bytes
LINE_KB = 4  # a stored answer


@dataclass(frozen=True)
class Work:
    """How much a data set is.

    Args:
        questions, videos: of the whole set.
        tokens: visual tokens of a prompt before pruning, a guess from frames, pixels and the usual size of its videos.
        gigabytes: of the download.
        why: where these two come from.
        text: other tokens of a prompt.
        answer: tokens of an answer.
    """

    questions: int
    videos: int
    tokens: int
    gigabytes: float
    why: str
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


def prefill_flops(tokens: float, text: float, shares: tuple[float, float], first: int, layers: int = LAYERS) -> float:
    """Count the decoder's FLOPs for a prompt.

    Args:
        tokens, text: of the prompt.
        shares: of the visual tokens, in the first layers and in the others.
        first: how many layers come first.
        layers: of the model.
    """
    total = 0.0
    for share, count in ((shares[0], first), (shares[1], layers - first)):
        width = tokens * share + text
        total += count / layers * (LINEAR * width + ATTENTION * width * width)
    return total


def estimate(works: Sequence[tuple[str, Work]], configs: Sequence[PruneVidConfig], rounds: float = 1.0) -> Cost:
    """Estimate a run of some data sets under some configs; videos are encoded once for all configs.

    Args:
        works: title and size of each.
        configs: of a model of 28 layers.
        rounds: how often everything is done.
    """
    lines, hours, whole = [], 0.0, 0.0
    for title, work in works:
        vision = work.videos * work.tokens * VISION / SPEED
        flops = sum(_flops(work, config) for config in configs) / len(configs)
        answer = flops / SPEED + work.answer * DECODE + OVERHEAD
        answers = work.questions * len(configs)
        seconds = rounds * (vision + answers * answer)
        disk = work.gigabytes + answers * LINE_KB / 1e6
        hours, whole = hours + seconds / 3600, whole + disk
        lines.append(
            f"{title}: {work.videos} videos x {work.tokens} tokens x {VISION / 1e9:.1f} GFLOP / {SPEED / 1e12:.0f} "
            f"TFLOP/s = {vision / 3600:.1f} h encoding, once; {work.questions} questions x {len(configs)} configs x "
            f"({flops / 1e12:.0f} TFLOP / {SPEED / 1e12:.0f} TFLOP/s + {work.answer} x {DECODE} s + {OVERHEAD} s) = "
            f"{answers * answer / 3600:.1f} h answering{'' if rounds == 1 else f'; all {rounds:g} times'}; disk "
            f"{gigabytes(disk)} ({work.why})"
        )
    return Cost(hours, whole, tuple(lines))


def gigabytes(value: float) -> str:
    """Say a size in whole gigabytes."""
    return f"{value:.0f} GB" if value >= 1 else "less than 1 GB"


def _flops(work: Work, config: PruneVidConfig) -> float:
    shares, _ = layer_shares(config, PUBLISHED_DEPTH, free=_FREE)
    return fmean(prefill_flops(work.tokens, work.text, (share, share), 1, 1) for share in shares)
