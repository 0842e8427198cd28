"""Time stage 1 on the CPU: `merge_video` against a plain loop over segments and positions with O(W^2) similarities.

    python eval/stage1_speed.py [--repeats 15] [--threads 2] [--out eval/results/stage1_speed.json]

The plain loop is written from the formulas of the paper for this comparison. It is not the authors' code.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from prunevid_qwen.config import PruneVidConfig, get_reference_config
from prunevid_qwen.stage1_merge import merge_video, refine_segments

SHAPES = ((8, 10, 14, 2048), (16, 12, 12, 4096), (32, 10, 14, 3584), (64, 10, 14, 3584))
KINDS = ("random", "static", "half static", "scenes")


def features(kind: str, t: int, h: int, w: int, width: int) -> Tensor:
    """Draw a video: noise, a still picture with some noise, its right half moving, or a cut every 8."""
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


def milliseconds(function: Any, repeats: int) -> dict[str, float]:
    """Median and 20/80 quantiles of wall time."""
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(1000 * (time.perf_counter() - start))
    fifths = statistics.quantiles(times, n=5)
    return {"median": round(statistics.median(times), 2), "q20": round(fifths[0], 2), "q80": round(fifths[3], 2)}


def main() -> None:
    """Print a table and write the raw figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "stage1_speed.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    load_before = os.getloadavg()[0]
    config = get_reference_config()
    rows = []
    print(f"{'T x H x W x C':>18}  {'features':<12} {'tokens':>13} {'merge_video':>12} {'plain loop':>11}  ratio")
    for shape in SHAPES:
        for kind in KINDS:
            video = features(kind, *shape)
            merged = merge_video(video, config)
            ours = milliseconds(lambda v=video: merge_video(v, config), options.repeats)
            plain = milliseconds(lambda v=video: plain_loop(v, config), max(3, options.repeats // 3))
            tokens = [merged.token_map.n_in, merged.token_map.n_out]
            rows.append({"shape": shape, "features": kind, "tokens": tokens, "merge_video_ms": ours, "plain_ms": plain})
            print(
                f"{' x '.join(map(str, shape)):>18}  {kind:<12} {tokens[0]:>5} -> {tokens[1]:>4} "
                f"{ours['median']:>9.1f} ms {plain['median']:>8.1f} ms {plain['median'] / ours['median']:>5.1f}x",
                flush=True,
            )
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent)
    record = {
        "commit": commit.stdout.strip(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "machine": platform.machine(),
        "threads": options.threads,
        "load": [
            round(load_before, 2),
            round(os.getloadavg()[0], 2),
        ],  # of one minute: only an idle machine times fairly
        "repeats": options.repeats,
        "config": config.to_dict(),
        "plain": "a loop over segments and positions with all pairs, written from the formulas; not the authors' code",
        "rows": rows,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
