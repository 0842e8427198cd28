"""Time stage 1 on the CPU: `merge_video`, a plain loop with O(W^2) similarities, and the passes it cannot avoid.

``python -m research.stage1_speed --help``. The plain loop is written from the paper's formulas for this comparison. It
is not the authors' code: their times are quoted from the issue that set the targets, whose author measured them once on
an idle machine of this kind. `features` makes the inputs. All is timed in turns, so that a busy moment hits all alike.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, cast

import torch
import typer
from torch import Tensor
from torch.nn import functional

from prunevid_qwen.cli import run_script
from prunevid_qwen.config import PruneVidConfig, get_config
from prunevid_qwen.evaluation.store import surroundings
from prunevid_qwen.receipt import versions
from prunevid_qwen.reducer import made_by
from prunevid_qwen.stage1_merge import merge_video, refine_segments
from prunevid_qwen.stage1_merge.prunevid.merge_options import MergeOptions
from prunevid_qwen.stage1_merge.prunevid.on_cpu import VideoMerge
from research.shapes_run import RESULTS, command_of

SHAPES = ((8, 10, 14, 2048), (16, 12, 12, 4096), (32, 10, 14, 3584), (64, 10, 14, 3584))
AUTHORS_MS = (34.0, 149.0, 277.0, 596.0)  # of each shape; measured by the author when idle, features not known
TIMES_FASTER = (5, 7, 9, 12)  # than the authors' code: the targets
SOURCE = "measured by the issue's author when idle"
MOST_OVER_PASSES = 1.5  # at the largest shape
KINDS = ("random", "static", "half static", "scenes")


def features(kind: str, t: int, h: int, w: int, width: int) -> Tensor:
    """Make a video's tokens, [T, h, w, C] fp32, always the same (seed 0).

    Args:
        kind: "random": every token N(0, 1), so that nothing is static. "static": one random picture in all positions
            with noise of a tenth of its size on each. "half static": the same, but the right half of the columns is
            "random". "scenes": a new random picture every 8 positions, with the same noise, and a quarter of the
            rows "random".
        t, h, w, width: the shape.
    """
    torch.manual_seed(0)
    noise = torch.randn(t, h, w, width)
    if kind == "random":
        return noise
    if kind == "scenes":
        still = torch.randn(-(-t // 8), h, w, width).repeat_interleave(8, dim=0)[:t] + 0.1 * noise
        still[:, : h // 4] = noise[:, : h // 4]
        return still
    still = torch.randn(1, h, w, width) + 0.1 * noise
    if kind == "half static":
        still[:, :, w // 2 :] = noise[:, :, w // 2 :]
    return still


def plain_clusters(points: Tensor, clusters: int, k: int) -> Tensor:
    """DPC-KNN of one group, [N, C] -> [N] labels."""
    distance = torch.cdist(points, points) / points.shape[1] ** 0.5
    density = (-distance.topk(min(k, len(points)), largest=False).values.square().mean(dim=1)).exp()
    delta = torch.where(density[None, :] > density[:, None], distance, distance.max()).min(dim=1).values
    centres = (density * delta).topk(clusters).indices
    labels = distance[:, centres].argmin(dim=1)
    labels[centres] = torch.arange(clusters)
    return labels


def plain_merge(tokens: Tensor, config: PruneVidConfig) -> Tensor:
    """Merge a group's tokens, [N, C] -> [N', C]."""
    if len(tokens) <= config.min_cluster_tokens:
        return tokens
    clusters = max(1, int(len(tokens) * config.cluster_ratio))
    member = functional.one_hot(plain_clusters(tokens, clusters, config.dpc_knn_k), clusters).to(tokens.dtype)
    return (member / member.sum(dim=0)).T @ tokens


def plain_loop(video: Tensor, config: PruneVidConfig) -> Tensor:
    """Stage 1 by the formulas as they stand: all pairs of positions, one clustering call a position."""
    x = video.flatten(1, 2)
    clusters = max(1, int(len(x) * config.temporal_segment_ratio))
    labels = refine_segments(plain_clusters(x.mean(dim=1), clusters, config.dpc_knn_k))
    out = []
    for segment in torch.split(x, labels.unique_consecutive(return_counts=True)[1].tolist()):
        unit = functional.normalize(segment, dim=-1).transpose(0, 1)
        length = len(segment)
        similarity = (torch.bmm(unit, unit.mT).sum(dim=(1, 2)) - length) / (length * (length - 1) or float("nan"))
        static = similarity > config.tau
        if bool(static.any()):
            out.append(plain_merge(segment[:, static].mean(dim=0), config))
        out += [plain_merge(position, config) for position in segment[:, ~static] if len(position)]
    return torch.cat(out)


def unavoidable(video: Tensor, config: PruneVidConfig) -> dict[str, Callable[[], Any]]:
    """Passes over the features that stage 1 cannot do without, each as torch does it by itself, on the true groups.

    Copies go to memory that is there already; the cluster means go to new memory, as a result has to.
    """
    x = video.flatten(1, 2)  # [T, L, C]
    merge = VideoMerge(video, cast(MergeOptions, made_by(config.merger, stage=1)))
    step = merge.token_map()
    t, locations, _ = x.shape
    over_space, over_time = x.new_ones(t, 1, locations), x.new_ones(locations, 1, t)
    weights = torch.rand(locations, 1, t)
    dynamic = (~merge.static_of).flatten().nonzero()[:, 0]
    held = torch.empty(len(dynamic), x.shape[2])
    member, sizes = step.target.argsort(stable=True), step.sizes
    first = sizes.cumsum(0) - sizes
    means = torch.randn(locations, x.shape[2])
    groups = []  # a batch for each segment's dynamic tokens, one for its static ones
    segments = torch.split(x, merge.windows)
    for segment, static in zip(segments, merge.static_counts, strict=True):
        groups += [segment[:, static:]] if static < locations else []
        groups += [means[None, :static]] if static else []
    if not any(merge.static_counts):
        groups = [x]

    def products() -> None:
        for each in groups:
            torch.bmm(each, each.mT)

    return {
        "norm": lambda: torch.linalg.vector_norm(x, dim=2),
        "mean over space": lambda: torch.bmm(over_space, x),
        "weighted sum over time": lambda: torch.bmm(weights, x.transpose(0, 1)),
        "plain sum over time": lambda: torch.bmm(over_time, x.transpose(0, 1)),
        "gather of the dynamic tokens": lambda: torch.index_select(x.flatten(0, 1), 0, dynamic, out=held),
        "distance products": products,
        "cluster means": lambda: functional.embedding_bag(member, x.flatten(0, 1), first, mode="mean"),
    }


def milliseconds(functions: dict[str, Callable[[], Any]], repeats: int) -> dict[str, dict[str, float]]:
    """Median, 20/80 quantiles and minimum of the wall time of each, run in turns."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(repeats + 1):  # the first warms up
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if turn:
                times[name].append(1000 * (time.perf_counter() - start))
    return {name: summary(each) for name, each in times.items()}


def summary(times: list[float]) -> dict[str, float]:
    """Median, 20/80 quantiles and minimum, in the unit of ``times``."""
    fifths = statistics.quantiles(times, n=5)
    figures = {"median": statistics.median(times), "q20": fifths[0], "q80": fifths[3], "min": min(times)}
    return {name: round(figure, 2) for name, figure in figures.items()}


def measure(place: int, kind: str, config: PruneVidConfig, repeats: int) -> dict[str, Any]:
    """Time one shape with one kind of features."""
    shape = SHAPES[place]
    video = features(kind, *shape)
    merged = merge_video(video, config)
    passes = unavoidable(video, config)
    timed = milliseconds(
        {"merge_video": lambda: merge_video(video, config), "plain": lambda: plain_loop(video, config), **passes},
        repeats,
    )
    ours = timed["merge_video"]["median"]
    total = sum(timed[name]["median"] for name in passes)
    gather = timed["gather of the dynamic tokens"]["median"] if merged.static_ratio == 0 else 0.0
    return {
        "shape": shape,
        "features": kind,
        "tokens": [merged.token_map.n_in, merged.token_map.n_out],
        "merge_video_ms": timed["merge_video"],
        "plain_ms": timed["plain"],
        "times_faster_than_plain": round(timed["plain"]["median"] / ours, 2),
        "authors_ms": AUTHORS_MS[place],
        "target_ms": round(AUTHORS_MS[place] / TIMES_FASTER[place], 1),
        "times_faster_than_authors": round(AUTHORS_MS[place] / ours, 2),
        "passes_ms": {name: timed[name]["median"] for name in passes},
        "sum_of_passes_ms": round(total, 2),
        "over_passes": round(ours / total, 3),
        # where all is dynamic nothing needs gathering: the same without that pass
        "over_passes_without_idle_gather": round(ours / (total - gather), 3),
    }


def main(
    repeats: Annotated[int, typer.Option(help="Times that each is timed.")] = 15,
    threads: Annotated[int, typer.Option(help="Of torch.")] = 2,
    preset: Annotated[str, typer.Option(help="reference or paper.")] = "reference",
    out: Annotated[Path, typer.Option(help="The raw figures, JSON.")] = RESULTS / "stage1_speed.json",
) -> None:
    """Print a table and write the raw figures."""
    torch.set_num_threads(threads)
    load_before = os.getloadavg()[0]
    config, rows = get_config(preset), []
    typer.echo(f"preset {preset}, {threads} threads, load {load_before:.2f}; authors' times: {SOURCE}")
    for place, shape in enumerate(SHAPES):
        for kind in KINDS:
            row = measure(place, kind, config, repeats)
            rows.append(row)
            tokens, ours, plain = row["tokens"], row["merge_video_ms"]["median"], row["plain_ms"]["median"]
            typer.echo(
                f"{' x '.join(map(str, shape)):>18}  {kind:<12} {tokens[0]:>5} -> {tokens[1]:>4}  "
                f"ours {ours:.1f} ms of {row['target_ms']:.1f}; authors {row['authors_ms']:.0f}, plain {plain:.1f}, "
                f"passes {row['sum_of_passes_ms']:.1f}: {row['over_passes']:.2f} times those"
            )
    slow = [r for r in rows if r["merge_video_ms"]["median"] > r["target_ms"]]
    over = [r for r in rows if tuple(r["shape"]) == SHAPES[-1] and r["over_passes"] > MOST_OVER_PASSES]
    typer.echo(
        f"{len(rows) - len(slow)} of {len(rows)} rows within their target; at the largest shape "
        f"{len(KINDS) - len(over)} of {len(KINDS)} within {MOST_OVER_PASSES} times the passes"
    )
    record = {
        "command": command_of("research.stage1_speed"),
        **surroundings(),
        "versions": versions(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "threads": threads,
        "load": [round(load_before, 2), round(os.getloadavg()[0], 2)],  # of one minute: only an idle machine is fair
        "repeats": repeats,
        "preset": preset,
        "config": config.flat(),
        "authors": SOURCE,
        "plain": "a loop over segments and positions with all pairs, written from the formulas; not the authors' code",
        "rows": rows,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run_script(main)
