"""FlashVID against its paper's algorithms (arXiv 2602.08024), written out token by token; and its edges."""

from __future__ import annotations

from itertools import pairwise
from math import ceil, inf
from typing import Any

import pytest
import torch
from torch import Tensor

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.config.method_options import FlashVIDOptions
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.kernels.dpc_knn import reference as cluster
from prunevid_qwen.stage1_merge import FlashVID
from prunevid_qwen.stage1_merge.flashvid import diverse, flashvid
from prunevid_qwen.tokens import TokenMap
from tests.tolerances import close


def moving(frames: int, size: int, seed: int, changes: tuple[int, ...] = ()) -> Tensor:
    """Tokens that change a little from frame to frame, move on by one place, and are new after some frames."""
    numbers = torch.Generator().manual_seed(seed)
    scene, out = torch.randn(size, 12, generator=numbers), []
    for frame in range(frames):
        if frame in changes:
            scene = torch.randn(size, 12, generator=numbers)
        scene = scene.roll(1, 0) + 0.35 * torch.randn(size, 12, generator=numbers)
        out.append(scene + 1.0)
    return torch.stack(out)


def angle(one: Tensor, other: Tensor) -> float:
    return float(torch.cosine_similarity(one.double(), other.double(), dim=0))


def selected_of(frame: Tensor, quality: Tensor, count: int) -> list[int]:
    """Algorithm 3."""
    size = len(frame)
    far = [[(1 - angle(frame[i], frame[j])) * float(quality[i]) for j in range(size)] for i in range(size)]
    chosen = [max(range(size), key=lambda i: min(far[i][j] for j in range(size) if j != i))] if count else []
    while len(chosen) < count:
        left = [i for i in range(size) if i not in chosen]
        chosen.append(max(left, key=lambda i: min(far[i][j] for j in chosen)))
    return sorted(chosen)


def paper(tokens: Tensor, received: Tensor, own: FlashVIDOptions) -> tuple[list[int], Tensor, int]:
    """Algorithm 1 with the authors' partition and budget; where tokens stand, the tokens, and the number of links."""
    frames, size, width = tokens.shape
    means = tokens.mean(1)
    alike = [angle(means[f], means[f + 1]) for f in range(frames - 1)]
    cuts = sorted({*sorted(range(frames - 1), key=alike.__getitem__)[: own.segments - 1],
                   *(f for f in range(frames - 1) if alike[f] < own.segment_threshold)})  # fmt: skip
    starts = [0, *(cut + 1 for cut in cuts), frames]
    budget = ceil(size * own.cluster_ratio)
    count = ceil(budget * own.alpha)
    out: dict[int, Tensor] = {}
    linked = 0
    for start, stop in pairwise(starts):
        event = tokens[start:stop].mean((0, 1))
        rest: dict[int, list[int]] = {}
        for f in range(start, stop):
            quality = received[f] * (tokens[f] @ event if own.event_relevance else 1)
            chosen = selected_of(tokens[f], quality, count)
            out |= {f * size + i: tokens[f, i] for i in chosen}
            rest[f] = [i for i in range(size) if i not in chosen]
        if budget == count:
            continue
        links = []
        for f in range(start + 1, stop):
            for i in rest[f]:
                best = max(rest[f - 1], key=lambda j: angle(tokens[f, i], tokens[f - 1, j]))
                links.append((angle(tokens[f, i], tokens[f - 1, best]), f * size + i, (f - 1) * size + best))
        links = sorted((link for link in links if link[0] > own.merge_threshold), reverse=True)
        parent = {child: up for _, child, up in links[: (stop - start) * (size - budget)]}
        linked += len(parent)
        grown: dict[int, list[int]] = {}
        for f in range(start, stop):
            for i in rest[f]:
                root = f * size + i
                while root in parent:
                    root = parent[root]
                grown.setdefault(root, []).append(f * size + i)
        flat = tokens.view(-1, width)
        share = (budget - count) * (stop - start) / len(grown)
        for f in range(start, stop):
            roots = sorted(root for root in grown if root // size == f)
            trees = torch.stack([flat[grown[root]].mean(0) for root in roots]) if roots else flat[:0]
            wanted = ceil(len(roots) * share) if share < 1 else len(roots)
            if wanted < len(roots):
                found = cluster(trees, wanted, min(wanted, 7))
                for number, centre in enumerate(found.centres.tolist()):
                    out[roots[centre]] = trees[found.labels == number].mean(0)
            else:
                out |= dict(zip(roots, trees, strict=True))
    return sorted(out), torch.stack([out[place] for place in sorted(out)]), linked


CASES: dict[str, tuple[Tensor, dict[str, Any]]] = {
    "usual": (moving(9, 12, 1, (4,)), {"segments": 2, "segment_threshold": 0.7}),
    "little": (moving(8, 16, 2), {"segments": 1, "segment_threshold": 0.1, "cluster_ratio": 0.13, "alpha": 0.4}),
    "all alike": (moving(6, 10, 3) * 0.02 + 1, {"segments": 1, "cluster_ratio": 0.5, "alpha": 0.4}),
    "one frame a segment": (moving(5, 12, 4), {"segments": 8, "event_relevance": False}),
    "nothing selected": (moving(7, 9, 5, (3, 5)), {"segments": 3, "alpha": 0.0, "merge_threshold": 0.6}),
    "nothing merged": (moving(4, 9, 6), {"segments": 2, "alpha": 1.0}),
}


@pytest.mark.parametrize("name", CASES)
def test_it_is_the_papers_algorithm(name: str) -> None:
    tokens, options = CASES[name]
    frames, size, _ = tokens.shape
    received = torch.rand(frames, size, generator=torch.Generator().manual_seed(7)) + 0.2
    own = FlashVID(**options)
    step = flashvid(tokens, received, own)
    places, made, links = paper(tokens, received, own)
    assert step.rep.tolist() == places
    close(step.mean(tokens.view(frames * size, -1)), made, 256)  # means of means
    assert (links > 0) == (name not in ("one frame a segment", "nothing merged"))
    assert int((step.target >= 0).sum()) == (step.n_out if name == "nothing merged" else frames * size)
    budget = ceil(size * own.cluster_ratio) * frames
    assert name != "all alike" or step.n_out == budget, "links that the budget does not need are left out"
    assert budget <= step.n_out <= budget + frames


def test_parts_of_a_long_video_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, received = moving(9, 12, 1, (4,)), torch.rand(9, 12)
    whole = flashvid(tokens, received, FlashVID(segments=2, segment_threshold=0.7))
    monkeypatch.setattr("prunevid_qwen.stage1_merge.flashvid._BYTES", 1)
    parts = flashvid(tokens, received, FlashVID(segments=2, segment_threshold=0.7))
    assert torch.equal(whole.target, parts.target) and torch.equal(whole.rep, parts.rep)


def test_a_token_is_not_chosen_twice() -> None:
    tokens = torch.ones(2, 6, 4)  # every distance is 0
    assert diverse(tokens, torch.ones(2, 6), 6).tolist() == [[0, 1, 2, 3, 4, 5]] * 2
    assert diverse(tokens, -torch.ones(2, 6), 3).tolist() == [[0, 1, 2]] * 2
    assert diverse(tokens[:, :1], torch.ones(2, 1), 1).tolist() == [[0], [0]]


def test_a_share_that_is_all_of_a_frame_keeps_all() -> None:
    step = FlashVID(cluster_ratio=0.9)
    assert step.why_unchanged(()) is not None and sum(step.counts_of(5)) == 5
    assert isinstance(flashvid(torch.randn(1, 5, 4), torch.rand(1, 5), FlashVID(cluster_ratio=0.5)), TokenMap)


@pytest.mark.parametrize("options", [
    {"alpha": 1.5}, {"alpha": None}, {"merge_threshold": 0}, {"segments": 0}, {"segment_threshold": 2},
    {"event_relevance": 1}, {"cluster_ratio": inf},
], ids=str)  # fmt: skip
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        FlashVIDOptions(**options)
    with pytest.raises(ConfigError):
        PruneVidConfig(merger="flashvid", **options)
