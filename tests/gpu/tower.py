"""The vision tower on a device: windows in batches beside the library's loop, their outputs and their times."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from prunevid_qwen.adapters.vision import vision_in_chunks
from prunevid_qwen.evaluation.speed.model_shapes import shape_called
from prunevid_qwen.vision import windows
from tests.tolerances import LOGITS, close

STOCK, STACKS, VARLEN, FLASH = "stock sdpa", "windows stacked", "windows by torch's varlen", "stock flash_attention_2"
WAYS = (STOCK, STACKS, VARLEN, FLASH)
CHUNK = 8192  # visual tokens, the package's default
ROUNDS = 9
SIZES = ((32, 10, 14), (128, 20, 28))
"""Frames, and rows and columns of tokens."""


def tower_of(shape: str, device: torch.device, dtype: torch.dtype, attention: str = "sdpa", **smaller: Any) -> Any:
    """Make the vision tower of a shape with random weights; ``smaller`` changes its config."""
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel as Tower

    config = shape_called(shape).vision_config
    for name, value in smaller.items():
        setattr(config, name, value)
    torch.manual_seed(0)
    with torch.device(device):
        return Tower._from_config(config, attn_implementation=attention, dtype=dtype).eval()


def video(tower: Any, size: tuple[int, int, int], seed: int) -> tuple[Tensor, Tensor]:
    """Make random pixels and the grid of one video on the tower's device."""
    frames, rows, columns = size
    grid = torch.tensor([[frames // 2, 2 * rows, 2 * columns]], device=tower.device)
    numbers = torch.Generator(tower.device).manual_seed(seed)
    width = 6 * tower.config.patch_size**2
    pixels = torch.randn(int(grid.prod()), width, generator=numbers, device=tower.device)
    return pixels.to(tower.dtype), grid


@contextlib.contextmanager
def going(way: str, tower: Any) -> Iterator[None]:
    """Let the tower's blocks attend in one of the `WAYS` inside the block."""
    with contextlib.ExitStack() as stack:
        if way == STACKS:
            stack.enter_context(mock.patch.object(windows, "_takes_varlen", lambda *_: False))
        if way in (STACKS, VARLEN):
            blocks: Any = SimpleNamespace(vision_blocks=list(tower.blocks))
            stack.enter_context(windows.windows_in_batches(blocks, (tower.device.type,)))
        yield


def why_not(way: str, tower: Any) -> str:
    """Say why a way cannot be gone with this tower, or nothing."""
    head = tower.config.hidden_size // tower.config.num_heads
    queries = torch.empty(1, 1, head, dtype=tower.dtype, device=tower.device)
    if way == VARLEN and not windows._takes_varlen(queries, head**-0.5):
        return f"torch {torch.__version__} has no varlen attention for {tower.dtype} here"
    return ""


@torch.no_grad()
def windows_differ(device: torch.device, dtype: torch.dtype, way: str, seed: int) -> str:
    """Compare a small tower of the 7B's windows with the library's loop; return what differs, or nothing."""
    tower = tower_of("7b_small", device, dtype, depth=4, fullatt_block_indexes=[3])
    if why_not(way, tower):
        return ""
    pixels, grid = video(tower, (4, 6, 10), seed)
    with going(STOCK, tower):
        wanted = tower(pixels, grid_thw=grid).pooler_output
    with going(way, tower):
        got = tower(pixels, grid_thw=grid).pooler_output
    try:
        close(got, wanted, LOGITS)
    except AssertionError as error:
        return " ".join(str(error).split())
    return ""


@torch.no_grad()
def times(
    device: torch.device, size: tuple[int, int, int], seed: int, shape: str = "7b", rounds: int = ROUNDS
) -> dict[str, Any]:
    """Time the tower in each way, in turns, in bf16, with the package's chunks: every round's milliseconds."""
    towers: dict[str, Any] = {}
    found: dict[str, Any] = {"shape": shape, "size": list(size), "dtype": "bfloat16", "chunk_tokens": CHUNK, "not": {}}
    for way in WAYS:
        try:
            attention = "flash_attention_2" if way == FLASH else "sdpa"
            held = towers.get(STOCK) if way in (STACKS, VARLEN) else None
            tower = held or tower_of(shape, device, torch.bfloat16, attention)
        except (ImportError, ValueError) as error:  # flash_attn is not installed, or not for this GPU
            found["not"][way] = " ".join(str(error).split())[:300]
            continue
        said = why_not(way, tower)
        if said:
            found["not"][way] = said
        else:
            towers[way] = tower
    pixels, grid = video(towers[STOCK], size, seed)
    raw: dict[str, list[float]] = {way: [] for way in towers}
    for number in range(rounds + 1):  # the first round warms up
        for way, tower in towers.items():
            with going(way, tower), vision_in_chunks(tower, CHUNK):
                taken = _milliseconds(lambda tower=tower: tower(pixels, grid_thw=grid), device)
            if number:
                raw[way].append(round(taken, 4))
    medians = {way: statistics.median(each) for way, each in raw.items()}
    gains = {way: round(medians[STOCK] / each, 4) for way, each in medians.items()}
    return {**found, "raw_ms": raw, "median_ms": medians, "times_faster": gains}


def _milliseconds(call: Callable[[], Any], device: torch.device) -> float:
    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    wait()
    began = time.perf_counter()
    call()
    wait()
    return (time.perf_counter() - began) * 1000
