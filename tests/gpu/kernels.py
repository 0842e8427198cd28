"""Every kernel beside its law: fresh random inputs, odd and real sizes, poisoned outputs, the same bits twice.

A kernel without a line in KERNELS fails `test_gpu_check`.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from prunevid_qwen.kernels.launch import wants_triton
from prunevid_qwen.stage1_merge.prunevid.segments import refine_segments
from tests.poison import poisoned
from tests.tolerances import DEVICE, close

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
FOLDER = Path(__file__).resolve().parents[2] / "prunevid_qwen" / "kernels"
Size = dict[str, Any]


@dataclass(frozen=True)
class Kernel:
    """How a kernel is compared and timed.

    Args:
        run: what the package calls, with the arguments.
        make: (size, dtype, generator) to the arguments, on the generator's device.
        law: what the reference says of the arguments.
        differs: (got, wanted, dtype, size) to what is wrong, or nothing.
        odd: small sizes at the edges, also run by the interpreter.
        real: sizes of a 3B or 7B model; the first two are timed.
    """

    run: Callable[..., Any]
    make: Callable[[Size, torch.dtype, torch.Generator], tuple[Any, ...]]
    law: Callable[..., Any]
    differs: Callable[[Any, Any, torch.dtype, Size], str]
    odd: tuple[Size, ...]
    real: tuple[Size, ...]


WITHIN = {"distances": "dpc_knn"}
"""Files of Triton kernels that the check of another kernel reaches."""


def triton_files() -> dict[str, str]:
    """Return the kernels that have a Triton form, and that form's module."""
    stems = [path.stem for path in sorted(FOLDER.glob("*.py")) if "triton" in path.stem.split("_")]
    named = {"_".join(word for word in stem.split("_") if word != "triton"): stem for stem in stems}
    return {name: f"prunevid_qwen.kernels.{stem}" for name, stem in named.items() if name not in WITHIN}


def check(name: str, size: Size, dtype: torch.dtype, generator: torch.Generator) -> str:
    """Compare a kernel with its law once; return what is wrong, or nothing."""
    kernel = KERNELS[name]
    arguments = kernel.make(size, dtype, generator)
    with poisoned(), _launches() as launched:
        got, again = kernel.run(*arguments), kernel.run(*arguments)
    if name in triton_files() and triton_files()[name] not in launched:
        return "its Triton form was not reached"
    if not all(_same_bits(a, b) for a, b in zip(_tensors(got), _tensors(again), strict=True)):
        return "two runs differ"
    return kernel.differs(got, kernel.law(*arguments), dtype, size)


@contextlib.contextmanager
def _launches() -> Iterator[set[str]]:
    """Note the modules whose Triton kernels are launched."""
    found: set[str] = set()
    if importlib.util.find_spec("triton") is None:
        yield found
        return
    from triton.runtime.jit import KernelInterface

    original = KernelInterface.__getitem__

    def noted(self: Any, grid: Any) -> Any:
        found.add(self.fn.__module__)
        return original(self, grid)

    with mock.patch.object(KernelInterface, "__getitem__", noted):
        yield found


def _of(name: str, function: str) -> Callable[..., Any]:
    """A function of a kernel's module, looked up when it is called."""
    return lambda *arguments: getattr(importlib.import_module(f"prunevid_qwen.kernels.{name}"), function)(*arguments)


def _same_bits(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(), b.nan_to_num())


def _tensors(got: Any) -> list[Tensor]:
    return [got] if isinstance(got, Tensor) else list(got)


def _drawn(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, device=generator.device)


def _close(got: Any, wanted: Any, dtype: torch.dtype, _size: Size) -> str:
    for a, b in zip(_tensors(got), _tensors(wanted), strict=True):
        try:
            close(a, b.to(a.dtype), DEVICE, dtype)
        except AssertionError as error:
            return " ".join(str(error).split())
    return ""


def _close_in_fp32(got: Any, wanted: Any, _dtype: torch.dtype, size: Size) -> str:
    return _close(got, wanted, torch.float32, size)


def _equal(got: Any, wanted: Any, _dtype: torch.dtype, _size: Size) -> str:
    same = all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(_tensors(got), _tensors(wanted), strict=True))
    return "" if same else "the bits differ from the law's"


def _same_clusters(got: Any, wanted: Any, _dtype: torch.dtype, size: Size) -> str:
    """At odd sizes every label; at real ones nearly every point's centre, since roundings may turn close scores."""
    if "least" not in size:
        return _equal(got, wanted, _dtype, size)
    theirs, ours = (each.centres.gather(1, each.labels) for each in (wanted, got))
    share = (ours == theirs).double().mean().item()
    return (
        "" if share >= size["least"] else f"{share:.3%} of the points have the law's centre, below {size['least']:.1%}"
    )


def _question(size: Size, dtype: torch.dtype, generator: torch.Generator) -> tuple[Any, ...]:
    heads, kv, rows, length, dim = size["shape"]
    q, k = _drawn(generator, heads, rows, dim).to(dtype), _drawn(generator, kv, length + 5, dim).to(dtype)[:, 5:]
    visual = torch.randperm(length - rows, generator=generator, device=q.device)[: size["visual"]].sort().values
    rows_at = torch.arange(length - rows, length, device=q.device) if size.get("causal", True) else None
    return (q, k, visual, rows_at, dim**-0.5, *size.get("reduce", ("max", "max")))


def _cache(size: Size, dtype: torch.dtype, generator: torch.Generator) -> tuple[Any, ...]:
    count, batch, heads, length, dim = size["shape"]
    held = [_drawn(generator, batch, heads, length, dim).to(dtype) for _ in range(count - 1)]
    held.append(_drawn(generator, batch, length, heads, dim).to(dtype).transpose(1, 2))
    past, kept = size.get("past", 0), size["kept"]
    chosen = [torch.randperm(length - past, generator=generator, device=held[0].device)[:kept] for _ in range(batch)]
    return held, torch.stack(chosen).sort(dim=1).values, past


def _points(size: Size, dtype: torch.dtype, generator: torch.Generator) -> tuple[Any, ...]:
    batch, n, width = size["shape"]
    points = _drawn(generator, batch, n, width)
    points += 4 * _drawn(generator, batch, max(1, n // 8), width).repeat_interleave(8 + n % 8, dim=1)[:, :n]
    if size.get("equal"):
        points[:] = points[:, :1].clone()
    return points.to(dtype), size["clusters"], size.get("k", 5)


def _law_of_clusters(points: Tensor, clusters: int, k: int) -> Any:
    module = importlib.import_module("prunevid_qwen.kernels.dpc_knn")
    found = [module.reference(group.cpu(), clusters, k) for group in points]
    parts = (torch.stack([getattr(each, name) for each in found]) for name in ("labels", "centres"))
    return module.Clusters(*(part.to(points.device) for part in parts))


def _groups(size: Size, dtype: torch.dtype, generator: torch.Generator) -> tuple[Any, ...]:
    n, groups, width = size["shape"]
    target = torch.randint(-1, groups, (n,), generator=generator, device=generator.device)
    return _drawn(generator, n, width).to(dtype), target, groups


def _law_of_means(x: Tensor, target: Tensor, n_out: int) -> Tensor:
    """Ask a law that goes row by row where that is cheap."""
    return _of("cluster_mean", "reference")(x.cpu(), target.cpu(), n_out).to(x.device)  # type: ignore[no-any-return]


def _video(size: Size, dtype: torch.dtype, generator: torch.Generator) -> tuple[Any, ...]:
    positions, locations, width = size["shape"]
    still = _drawn(generator, 1, locations, width)
    return (still + 0.5 * _drawn(generator, positions, locations, width)).to(dtype), size["lengths"]


def _over_time(tokens: Tensor, lengths: tuple[int, ...]) -> list[Tensor]:
    """Means over space; of each segment of two or more positions the similarity, and of each the means over time."""
    if not wants_triton(tokens):
        module = importlib.import_module("prunevid_qwen.kernels.temporal_similarity")
        cut = tokens.split(lengths)
        similar = [module.mean_similarity(each) for each in cut if len(each) > 1]
        return [module.frame_means(tokens), *similar, *map(module.time_means, cut)]
    module = importlib.import_module(triton_files()["temporal_similarity"])
    length = torch.tensor([*lengths, 0], device=tokens.device)  # the last one has room and no segment
    with torch.cuda.device_of(tokens):
        frames, norm = module.over_space(tokens)
        similar, means = module.over_time(tokens, norm, length.cumsum(0) - length, length)
    return [frames, *(one for one, n in zip(similar, lengths, strict=False) if n > 1), *means[:-1]]


def _law_over_time(tokens: Tensor, lengths: tuple[int, ...]) -> list[Tensor]:
    cut = tokens.float().split(lengths)
    similar = [_of("temporal_similarity", "reference")(each) for each in cut if len(each) > 1]
    return [tokens.float().mean(dim=1), *similar, *(each.mean(dim=0) for each in cut)]


def _labels(size: Size, _dtype: torch.dtype, generator: torch.Generator) -> tuple[Any, ...]:
    n, values = size["shape"]
    drawn = torch.randint(values, (n,), generator=generator, device=generator.device)
    again = torch.rand(n, generator=generator, device=generator.device) < 0.6  # runs, not noise
    kept = torch.where(again, 0, torch.arange(n, device=drawn.device)).cummax(dim=0).values
    return (drawn[kept],)


def _segments(labels: Tensor) -> Any:
    if not wants_triton(labels):
        return refine_segments(labels)
    module = importlib.import_module(triton_files()["segments"])
    with torch.cuda.device_of(labels):
        return module.contiguous_segments(labels)


def _same_segments(got: Any, wanted: Tensor, dtype: torch.dtype, size: Size) -> str:
    if not isinstance(got, Tensor):
        if not torch.equal(got.start, (got.length.cumsum(0) - got.length).where(got.length > 0, wanted.numel())):
            return "the segments do not follow each other"
        if int(got.number) != int((got.length > 0).sum()):
            return "the segments are counted wrong"
        got = got.label.repeat_interleave(got.length)
    return _equal(got, wanted, dtype, size)


def _segmented(size: Size, dtype: torch.dtype, generator: torch.Generator) -> tuple[Any, ...]:
    heads, lengths, dim = size["shape"]
    q, k = _drawn(generator, 2, heads, sum(lengths), dim).to(dtype)
    return q, k, lengths, dim**-0.5


KERNELS = {
    "question_attention": Kernel(
        _of("question_attention", "question_attention"), _question, _of("question_attention", "reference"),
        _close_in_fp32,
        odd=(
            {"shape": (6, 2, 7, 63, 16), "visual": 30},
            {"shape": (1, 1, 1, 2, 128), "visual": 1},
            {"shape": (14, 2, 5, 130, 80), "visual": 65, "reduce": ("mean", "max")},
            {"shape": (3, 3, 35, 100, 96), "visual": 33, "reduce": ("max", "mean"), "causal": False},
            {"shape": (4, 2, 3, 70, 256), "visual": 40, "reduce": ("mean", "last")},
        ),
        real=(
            {"shape": (28, 4, 40, 9000, 128), "visual": 8960},
            {"shape": (28, 4, 1, 2300, 128), "visual": 2240, "reduce": ("mean", "last")},
            {"shape": (16, 2, 130, 2400, 128), "visual": 2240, "reduce": ("mean", "mean")},
            {"shape": (28, 4, 40, 17960, 128), "visual": 17920, "causal": False},
        ),
    ),
    "received_attention": Kernel(
        _of("received_attention", "received_attention"), _segmented, _of("received_attention", "reference"),
        _close_in_fp32,
        odd=({"shape": (1, (1,), 8)}, {"shape": (2, (3, 3, 1), 16)}, {"shape": (3, (5, 40, 5), 80)}),
        real=({"shape": (16, (64,) * 81 + (48,) * 9, 80)}, {"shape": (16, (5184, 5184), 80)}),
    ),
    "cache_compaction": Kernel(
        _of("cache_compaction", "compact"), _cache, _of("cache_compaction", "reference"), _equal,
        odd=(
            {"shape": (3, 2, 3, 11, 6), "kept": 4, "past": 2},
            {"shape": (1, 1, 1, 5, 1), "kept": 5},
            {"shape": (2, 2, 2, 40, 272), "kept": 1, "past": 7},
        ),
        real=(
            {"shape": (22, 1, 4, 9000, 128), "kept": 2300},
            {"shape": (22, 4, 4, 2300, 128), "kept": 600, "past": 30},
            {"shape": (20, 1, 2, 9000, 128), "kept": 2300},
        ),
    ),
    "dpc_knn": Kernel(
        _of("dpc_knn", "dpc_knn"), _points, _law_of_clusters, _same_clusters,
        odd=(
            {"shape": (3, 1, 40), "clusters": 1},
            {"shape": (2, 3, 40), "clusters": 3},  # fewer points than neighbours
            {"shape": (2, 63, 100), "clusters": 7},
            {"shape": (2, 17, 64), "clusters": 9, "equal": True},
        ),
        real=(
            {"shape": (64, 70, 3584), "clusters": 35, "least": 0.99},
            {"shape": (1, 64, 3584), "clusters": 16, "least": 0.99},
            {"shape": (8, 140, 8192), "clusters": 70, "k": 7, "least": 0.99},
            {"shape": (1, 1500, 2048), "clusters": 750, "least": 0.99},
        ),
    ),
    "cluster_mean": Kernel(
        _of("cluster_mean", "cluster_mean"), _groups, _law_of_means, _close,
        odd=(
            {"shape": (1, 1, 1)},
            {"shape": (7, 30, 5)},  # most groups are empty
            {"shape": (130, 17, 65)},
        ),
        real=({"shape": (8960, 4000, 3584)}, {"shape": (2240, 300, 2048)}),
    ),
    "temporal_similarity": Kernel(
        _over_time, _video, _law_over_time, _close_in_fp32,
        odd=(
            {"shape": (2, 1, 1), "lengths": (2,)},
            {"shape": (8, 63, 33), "lengths": (5, 1, 2)},
            {"shape": (16, 20, 130), "lengths": (13, 3)},
        ),
        real=(
            {"shape": (64, 140, 3584), "lengths": (30, 1, 20, 13)},
            {"shape": (16, 140, 2048), "lengths": (16,)},
        ),
    ),
    "segments": Kernel(
        _segments, _labels, refine_segments, _same_segments,
        odd=({"shape": (1, 1)}, {"shape": (2, 2)}, {"shape": (63, 5)}, {"shape": (130, 2)}),
        real=({"shape": (64, 16)}, {"shape": (1800, 450)}, {"shape": (4096, 3)}),
    ),
}  # fmt: skip
