"""The kernels on this device, each on one small case against its law: the plain formula on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from prunevid_qwen.doctor.finding import FAULT, OK, Finding, first_line

if TYPE_CHECKING:
    from torch import Tensor

UNITS = 256.0
"""Units in the last place of fp32 by which a kernel may differ from its law: sums of some hundred numbers."""


def kernels() -> Iterator[Finding]:
    """Check every kernel on the GPU if torch sees one, else on the CPU."""
    import torch

    from prunevid_qwen.kernels.launch import wants_triton

    device = "cuda" if torch.cuda.is_available() else "cpu"
    way = "Triton" if wants_triton(torch.empty(1, device=device)) else "torch"
    for name, case in _CASES.items():
        yield _judged(name, case, device, way)


def _judged(name: str, case: Callable[[str], float], device: str, way: str) -> Finding:
    figures: dict[str, Any] = {"device": device, "way": way}
    fix = "pip uninstall triton (torch then computes the same), and report it" if way == "Triton" else (
        "pip install --force-reinstall torch"
    )  # fmt: skip
    try:
        off = case(device)
    except Exception as error:
        # Any exception at all: a compiler or a driver that does not go with this GPU raises its own kinds.
        return Finding(name, FAULT, f"{way} on {device} fails: {first_line(error)}", fix, figures)
    figures["units_in_the_last_place"] = off
    if off > UNITS:
        said = f"{way} on {device} is wrong: {off:.3g} units in the last place from its formula"
        return Finding(name, FAULT, said, fix, figures)
    said = f"{way} on {device}, {off:.3g} units in the last place from its formula"
    return Finding(name, OK, said, figures=figures)


def _numbers(*shape: int, seed: int = 0) -> Tensor:
    import torch

    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _units(got: Tensor, wanted: Tensor) -> float:
    from prunevid_qwen.forward.selfcheck.masked_forward import units_apart

    return units_apart(got.cpu().double(), wanted.double())


def _dpc_knn(device: str) -> float:
    """Clusters of points that lie apart: as many labels as differ count as units."""
    import torch

    from prunevid_qwen.kernels import dpc_knn

    centres = 20 * _numbers(4, 32)
    spread = torch.tensor([0.1, 0.2, 0.4, 0.8]).repeat_interleave(8)[:, None]
    points = centres.repeat_interleave(8, dim=0) + spread * _numbers(32, 32, seed=1)
    wanted = dpc_knn.reference(points, 4, 3).labels
    got = dpc_knn.dpc_knn(points[None].to(device), 4, 3).labels[0].cpu()
    return float("inf") if not torch.equal(got, wanted) else 0.0


def _cluster_mean(device: str) -> float:
    import torch

    from prunevid_qwen.kernels.cluster_mean import cluster_mean

    x, target = _numbers(48, 40), torch.arange(48) % 7 - 1
    wanted = torch.stack([x[target == group].double().mean(0) for group in range(6)])
    return _units(cluster_mean(x.to(device), target.to(device), 6), wanted)


def _temporal_similarity(device: str) -> float:
    from prunevid_qwen.kernels.temporal_similarity import mean_similarity

    segment = _numbers(5, 9, 24).double()
    x = segment / segment.norm(dim=2, keepdim=True)
    wanted = sum((x[a] * x[b]).sum(1) for a in range(5) for b in range(5) if a != b) / 20
    return _units(mean_similarity(segment.float().to(device)), wanted)


def _cache_compaction(device: str) -> float:
    import torch

    from prunevid_qwen.kernels.cache_compaction import compact

    held, index = _numbers(1, 2, 24, 16), torch.tensor([[0, 3, 4, 11, 19]])
    wanted = torch.cat([held[:, :, :4], held[:, :, 4 + index[0]]], dim=2)
    got = compact([held.to(device)], index.to(device), 4)[0].cpu()
    return 0.0 if torch.equal(got, wanted) else float("inf")


def _question_attention(device: str) -> float:
    import torch

    from prunevid_qwen.kernels.question_attention import question_attention

    q, k = _numbers(4, 6, 32), _numbers(2, 40, 32, seed=1)
    columns, rows_at = torch.arange(3, 30), torch.arange(34, 40)
    logits = q.double() @ k.double().repeat_interleave(2, dim=0).transpose(1, 2) * 32**-0.5
    logits = logits.masked_fill(torch.arange(40) > rows_at[:, None], float("-inf"))
    wanted = logits.softmax(-1)[..., columns].amax((0, 1)).log()
    got = question_attention(q.to(device), k.to(device), columns.to(device), rows_at.to(device), 32**-0.5)
    return _units(got, wanted)


def _segments(device: str) -> float:
    """Lengths of a video's segments, counted by hand: a run alone of its label joins the longer of its neighbours."""
    import torch

    from prunevid_qwen.kernels.launch import wants_triton

    labels = torch.tensor([0, 0, 1, 0, 2, 2, 2, 1, 1], device=device)
    if wants_triton(labels):
        from prunevid_qwen.kernels.triton_segments import contiguous_segments

        found = contiguous_segments(labels)
        lengths = found.length[: int(found.number)]
    else:
        from prunevid_qwen.stage1_merge.prunevid.segments import refine_segments

        lengths = torch.unique_consecutive(refine_segments(labels), return_counts=True)[1]
    return 0.0 if lengths.tolist() == [2, 5, 2] else float("inf")


_CASES: dict[str, Callable[[str], float]] = {
    "clustering": _dpc_knn,
    "means of groups": _cluster_mean,
    "similarity over time": _temporal_similarity,
    "segments of time": _segments,
    "cutting the cache": _cache_compaction,
    "attention of the question": _question_attention,
}
