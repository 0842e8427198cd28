"""The parts of `make gpu-check`, each a process of its own: ``python -m tests.gpu.parts PART SECONDS SEED``.

Prints a JSON line a check: what was checked and what is wrong with it (nothing, an empty string). A part that comes to
the end of its time says which checks it did not reach.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import math
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch

from prunevid_qwen.config import get_paper_config
from prunevid_qwen.stage1_merge.prunevid.method import merge_video
from tests import glimpse
from tests.gpu import kernels, tower, whole_path

Check = tuple[str, Callable[[], Any]]  # a name, and what to run: it returns what is wrong, or numbers
FLOAT = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


def about(device: torch.device, _seed: int) -> Iterator[Check]:
    """Say on what this ran."""

    def versions() -> dict[str, Any]:
        found: dict[str, Any] = {"python": sys.version.split()[0]}
        for name in ("torch", "transformers", "triton", "numpy"):
            try:
                found[name] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                found[name] = None
        if device.type == "cuda":
            gpu = torch.cuda.get_device_properties(device)
            found |= {"gpu": gpu.name, "capability": f"{gpu.major}.{gpu.minor}", "memory": gpu.total_memory}
            found |= {"processors": gpu.multi_processor_count, "cuda": torch.version.cuda, "hip": torch.version.hip}
        return found

    yield "versions", versions


def kernel_checks(device: torch.device, seed: int, real: bool = True) -> Iterator[Check]:
    """Compare every kernel with its law, in every type, at odd and at real sizes."""
    for name, kernel in kernels.KERNELS.items():
        for size in (*kernel.odd, *(kernel.real if real else ())):
            for dtype in kernels.FLOATS:
                yield f"{name} {_said(size)} {FLOAT[dtype]}", _kernel_check(name, size, dtype, device, seed)


def _kernel_check(name: str, size: Any, dtype: torch.dtype, device: torch.device, seed: int) -> Callable[[], str]:
    return lambda: kernels.check(name, size, dtype, torch.Generator(device).manual_seed(seed))


def path_checks(device: torch.device, seed: int) -> Iterator[Check]:
    """Check the pruned forward: the tokens a CPU keeps, the stock model's bits when nothing is dropped, the waits."""
    for case in ("one_video", "ragged", "mixed"):
        yield (
            f"keeps the tokens that a CPU keeps: {case}",
            lambda case=case: whole_path.keeps_the_tokens_that_a_cpu_keeps(device, case),
        )
        for dtype, said in FLOAT.items():
            yield (
                f"keep everything equals stock: {case} {said}",
                lambda case=case, dtype=dtype: whole_path.keep_everything_equals_stock(device, case, dtype),
            )
    merged = {**whole_path.PRUNES, "enable_stage1": True, "pruning_layer": None}
    yield (
        "the glimpse keeps what it keeps on a CPU",
        lambda: whole_path.keeps_the_tokens_that_a_cpu_keeps(device, "ragged", glimpse.config()),
    )
    yield (
        "the glimpse behind stage 1 keeps what it keeps on a CPU",
        lambda: whole_path.keeps_the_tokens_that_a_cpu_keeps(device, "ragged", glimpse.config(**merged)),
    )
    yield (
        "a glimpse that drops nothing leaves the stock model's answer",
        lambda: whole_path.keep_everything_equals_stock(
            device, "ragged", torch.bfloat16, glimpse.config(keep_threshold=0.0, position_scheme="hf")
        ),
    )
    for way in (tower.STACKS, tower.VARLEN):
        for dtype, said in FLOAT.items():
            yield (
                f"{way} {said}",
                lambda way=way, dtype=dtype: tower.windows_differ(device, dtype, way, seed),
            )
    yield "a stream is answered as the whole", lambda: whole_path.a_stream_is_answered_as_the_whole(device)
    if device.type == "cuda":
        for case in ("one_video", "ragged"):

            def waits(case: str = case) -> Any:
                counted = whole_path.waits(device, case)
                return whole_path.waits_too_often(counted, case) or dict(counted)

            yield f"waits of the host: {case}", waits


def sanitized(device: torch.device, seed: int) -> Iterator[Check]:
    """Run what compute-sanitizer watches: the Triton kernels at their odd sizes, in one type."""
    for name in kernels.triton_files():
        for size in kernels.KERNELS[name].odd:
            yield f"{name} {_said(size)} bf16", _kernel_check(name, size, torch.bfloat16, device, seed)


def timings(device: torch.device, seed: int) -> Iterator[Check]:
    """Time each kernel as called beside torch's path on the same GPU, and the whole of stage 1."""
    for name, kernel in kernels.KERNELS.items():
        for size in kernel.real[:2]:
            yield f"{name} {_said(size)} bf16", _timing(name, size, device, seed)
    for positions in (16, 64):
        yield (
            f"stage 1 {positions}x10x14x3584 bf16",
            lambda positions=positions: _stage_1(positions, device, seed),
        )


def tower_timings(device: torch.device, seed: int) -> Iterator[Check]:
    """Time the vision tower of a 7B: the library's loop over windows, windows in batches, flash attention."""
    for size in tower.SIZES:
        frames, rows, columns = size
        yield (
            f"vision tower of {frames} frames of {rows}x{columns} bf16",
            lambda size=size: tower.times(device, size, seed),
        )


def _timing(name: str, size: Any, device: torch.device, seed: int) -> Callable[[], Any]:
    def measure() -> dict[str, Any]:
        kernel = kernels.KERNELS[name]
        arguments = kernel.make(size, torch.bfloat16, torch.Generator(device).manual_seed(seed))
        found = {"kernel_ms": _median(lambda: kernel.run(*arguments))}
        with contextlib.ExitStack() as stack:
            for module in (kernels, sys.modules.get(f"prunevid_qwen.kernels.{name}")):
                if hasattr(module, "wants_triton"):
                    stack.enter_context(mock.patch.object(module, "wants_triton", lambda _: False))
            return {**found, "torch_ms": _median(lambda: kernel.run(*arguments))}

    return measure


def _stage_1(positions: int, device: torch.device, seed: int) -> dict[str, Any]:
    numbers = torch.Generator(device).manual_seed(seed)
    shape = (positions, 10, 14, 3584)
    still = torch.randn(1, *shape[1:], generator=numbers, device=device)
    moves = torch.rand(1, *shape[1:3], 1, generator=numbers, device=device) < 0.5
    video = still + torch.randn(shape, generator=numbers, device=device) * (0.05 + moves)
    video = video.to(torch.bfloat16)
    return {"ms": _median(lambda: merge_video(video, get_paper_config()))}


def _median(call: Callable[[], Any]) -> list[float]:
    """Median and 20/80 quantiles in ms, after a warm-up, with the L2 cache cleared before each call."""
    import triton.testing

    taken = triton.testing.do_bench(call, warmup=50, rep=200, quantiles=[0.5, 0.2, 0.8])
    return [round(each, 5) for each in taken]


def _said(size: Any) -> str:
    parts = ["x".join(map(str, size["shape"]))]
    return " ".join([*parts, *(f"{k}={v}" for k, v in size.items() if k not in ("shape", "least"))])


PARTS: dict[str, Callable[[torch.device, int], Iterator[Check]]] = {
    "about": about, "kernels": kernel_checks, "path": path_checks, "timings": timings, "tower": tower_timings,
    "sanitized": sanitized,
}  # fmt: skip


def carry_out(checks: Iterator[Check], stop: float) -> Iterator[dict[str, Any]]:
    """Run checks one after the other until the clock says ``stop``; those after it are named, not run."""
    for name, run in checks:
        start = time.monotonic()
        if start > stop:
            yield {"check": name, "not_run": "no time was left"}
            continue
        line: dict[str, Any] = {"check": name, "wrong": ""}
        try:
            found = run()
            line |= {"wrong": found} if isinstance(found, str) else {"found": found}
        except Exception as error:  # of any kernel or library: the line carries it, the other checks go on
            line["wrong"] = f"{type(error).__name__}: {' '.join(str(error).split())[:2000]}"
            traceback.print_exc()
        yield {**line, "seconds": round(time.monotonic() - start, 3)}


def main(part: str, seconds: str = "inf", seed: str = "0") -> None:
    """Carry out one part on the GPU."""
    stop = time.monotonic() + float(seconds) if math.isfinite(float(seconds)) else math.inf
    for line in carry_out(PARTS[part](torch.device("cuda"), int(seed)), stop):
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
