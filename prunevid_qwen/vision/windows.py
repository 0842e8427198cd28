"""Windows in batches: the attention of Qwen's vision towers in one call for all windows of one size, on a GPU.

The library's sdpa and eager paths call attention once for each window, or once for each temporal position where a
block sees whole positions. The windows are independent of each other, so the calls may be one: by torch's own varlen
attention where it has one, else for the windows of each size, stacked. The sums are those of the library. On a CPU the
library's loop is faster than the gathers, and stays.
"""

from __future__ import annotations

import inspect
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from prunevid_qwen.adapters import Adapter
from prunevid_qwen.adapters.attachments import replaced
from prunevid_qwen.adapters.seams import attention_called, transformers_release
from prunevid_qwen.version import TESTED

MOST_WINDOWS = 2**15
"""Windows of one call: kernels number them along an axis of the launch that ends at 65,535."""
EAGER_SCORES = 2**26
"""Attention scores of one eager call, or one window's: eager attention holds them all, several times, in fp32."""

_FORWARD = {"self", "hidden_states", "cu_seqlens", "position_embeddings"}
_IGNORED = {"rotary_pos_emb", "max_seqlen", "kwargs"}  # without them the sdpa and eager paths do the same
_NAMES = ("num_heads", "scaling", "config")
_PARTS = {"qkv", "proj"}
_SDPA = "transformers.integrations.sdpa_attention"  # where its sdpa path stands; a user may put his own in its place
_ROTATE, _EAGER = "apply_rotary_pos_emb_vision", "eager_attention_forward"


class Stack(NamedTuple):
    """Windows of one size that go through attention in one call.

    Args:
        size: patches of a window.
        windows: how many.
        start: row of the first patch among the rows put in order of their windows' sizes.
    """

    size: int
    windows: int
    start: int


class Windows(NamedTuple):
    """How a block's windows are stacked.

    Args:
        stacks: in the order of `order`; they hold every patch once.
        order: [P] int64, which patch of the tower stands at each place of the stacks; None where they stand so already.
        place: [P] int64, at which place of the stacks each patch stands; None with ``order``.
        longest: patches of the largest window.
    """

    stacks: tuple[Stack, ...]
    order: Tensor | None
    place: Tensor | None
    longest: int


def stacked(lengths: Sequence[int], at_once: Callable[[int], int]) -> Windows:
    """Put windows of the same size into stacks; the sizes stand in the order in which they first appear.

    Args:
        lengths: patches of each window, in the order of the tower; at least one.
        at_once: from a window's size to the largest number of windows in a stack, at least 1.
    """
    starts: dict[int, list[int]] = {}
    at = 0
    for length in lengths:
        if length:
            starts.setdefault(length, []).append(at)
        at += length
    stacks, start = list[Stack](), 0
    for size, own in starts.items():
        most = at_once(size)
        for first in range(0, len(own), most):
            count = min(most, len(own) - first)
            stacks.append(Stack(size, count, start))
            start += size * count
    longest = max(starts, default=0)
    if len(starts) < 2:
        return Windows(tuple(stacks), None, None, longest)
    order = torch.cat([(torch.tensor(own)[:, None] + torch.arange(size)).flatten() for size, own in starts.items()])
    return Windows(tuple(stacks), order, order.argsort(), longest)


@contextmanager
def windows_in_batches(adapter: Adapter, devices: Sequence[str] = ("cuda",)) -> Iterator[None]:
    """Let the blocks of Qwen's towers attend to all windows of one size in one call, inside the block.

    A block stays as it is where its attention is none of the forms known here, where somebody put a forward of his own
    in its place, with flash attention (which takes all windows in one call already), and where there is one window.

    Args:
        adapter: of the model; its blocks are restored on leaving.
        devices: types of the devices on which stacking pays. Tests name the CPU.
    """
    with ExitStack() as stack:
        if transformers_release() in TESTED:
            seen = _Stacked()
            for block in adapter.vision_blocks:
                attention = getattr(block, "attn", None)
                if attention is not None and _is_known(attention):
                    stack.enter_context(replaced(attention, "forward", _forward(attention, seen, tuple(devices))))
        yield


def _is_known(attention: nn.Module) -> bool:
    """Tell whether an attention is of the form that Qwen's towers have: what is known to take its windows apart."""
    parameters = inspect.signature(type(attention).forward).parameters
    home = sys.modules.get(type(attention).__module__)
    return (
        getattr(attention.forward, "__func__", None) is type(attention).forward
        and _FORWARD <= set(parameters) <= _FORWARD | _IGNORED
        and {name for name, _ in attention.named_children()} == _PARTS
        and all(hasattr(attention, name) for name in _NAMES)
        and all(callable(getattr(home, name, None)) for name in (_ROTATE, _EAGER))
    )


class _Stacked(threading.local):
    """How the windows of the last bounds are stacked: all blocks of a call share two of them, and the host waits once.

    Bounds are told apart as objects, which are held so that no other gets their place.
    """

    def __init__(self) -> None:
        self.held: list[tuple[Tensor, int, tuple[int, bool], Windows]] = []

    def windows(self, bounds: Tensor, heads: int, eager: bool) -> Windows:
        kind = heads, eager
        for held, version, what, windows in self.held:
            if held is bounds and version == _version(bounds) and what == kind:
                return windows

        def at_once(size: int) -> int:
            return max(1, min(MOST_WINDOWS, EAGER_SCORES // (heads * size * size) if eager else MOST_WINDOWS))

        made = stacked(bounds.diff().tolist(), at_once)
        if made.order is not None and made.place is not None:
            made = made._replace(order=made.order.to(bounds.device), place=made.place.to(bounds.device))
        self.held = [*self.held[-1:], (bounds, _version(bounds), kind, made)]
        return made


def _version(bounds: Tensor) -> int:
    return 0 if bounds.is_inference() else bounds._version  # tensors of inference mode are not counted


def _forward(attention: Any, seen: _Stacked, devices: tuple[str, ...]) -> Callable[..., Tensor]:
    stock = attention.forward
    home = sys.modules[type(attention).__module__]

    def forward(*args: Any, **kwargs: Any) -> Tensor:
        given = {**dict(zip(("hidden_states", "cu_seqlens"), args, strict=False)), **kwargs}
        states, bounds, angles = (given.get(name) for name in ("hidden_states", "cu_seqlens", "position_embeddings"))
        written = attention.config._attn_implementation
        if (
            len(args) > 2
            or not (isinstance(states, Tensor) and isinstance(bounds, Tensor) and angles is not None)
            or written not in ("sdpa", "eager")
            or states.device.type not in devices
            or bounds.numel() < 3
        ):
            return stock(*args, **kwargs)  # type: ignore[no-any-return]
        others = {name: value for name, value in given.items() if name not in _FORWARD | _IGNORED}
        rows, heads = states.shape[0], attention.num_heads
        queries, keys, values = attention.qkv(states).reshape(rows, 3, heads, -1).unbind(1)  # [P, H, d]
        queries, keys = getattr(home, _ROTATE)(queries, keys, *angles)
        windows = seen.windows(bounds, heads, written == "eager")
        dropout = 0.0 if not attention.training else getattr(attention, "attention_dropout", 0.0)
        attend, scale = attention_called(written, getattr(home, _EAGER)), float(attention.scaling)
        plain = attend.__module__ == _SDPA and not dropout and all(isinstance(v, bool | None) for v in others.values())
        if plain and _takes_varlen(queries, scale):
            made = _varlen(queries, keys, values, bounds, windows.longest, scale)
        else:
            options = {"attention_mask": None, "scaling": attention.scaling, "dropout": dropout, "is_causal": False}
            made = _in_stacks(attend, attention, (queries, keys, values), windows, {**options, **others})
        return attention.proj(made.reshape(rows, -1).contiguous())  # type: ignore[no-any-return]

    return forward


def _in_stacks(
    attend: Callable[..., Any], module: nn.Module, states: Sequence[Tensor], windows: Windows, options: dict[str, Any]
) -> Tensor:
    """Attend stack by stack; queries, keys and values [P, H, d] to [P, H, d]."""
    if windows.order is not None:
        states = [each.index_select(0, windows.order) for each in states]
    parts = []
    for size, count, start in windows.stacks:
        part = (each[start : start + size * count].unflatten(0, (count, size)).transpose(1, 2) for each in states)
        made, _ = attend(module, *part, **options)  # [count, H, size, d] to [count, size, H, d]
        parts.append(made.flatten(0, 1))
    whole = parts[0] if len(parts) == 1 else torch.cat(parts)
    return whole if windows.place is None else whole.index_select(0, windows.place)


# ---- torch's own attention over windows of any size: since 2.10, on CUDA, by the flash kernels that it ships


@cache
def _varlen_function() -> tuple[Callable[..., Tensor] | None, bool]:
    """Return torch's varlen attention, and whether it takes a scale (since 2.11)."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None, False
    function: Callable[..., Any] = varlen_attn
    return function, "scale" in inspect.signature(varlen_attn).parameters


def _takes_varlen(queries: Tensor, scale: float) -> bool:
    """Tell whether torch's varlen attention takes these queries, [P, H, d]; its limits are those of its flash kernels.

    Where a user turned flash attention off, it is left out.
    """
    function, scales = _varlen_function()
    width = queries.shape[-1]
    return (
        function is not None
        and (scales or scale == width**-0.5)
        and queries.is_cuda
        and torch.version.hip is None
        and queries.dtype in (torch.float16, torch.bfloat16)
        and width % 8 == 0
        and width <= 256
        and _is_ampere(queries.device)
        and torch.backends.cuda.is_flash_attention_available()
        and torch.backends.cuda.flash_sdp_enabled()
    )


@cache
def _is_ampere(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device) >= (8, 0)


def _varlen(queries: Tensor, keys: Tensor, values: Tensor, bounds: Tensor, longest: int, scale: float) -> Tensor:
    function, scales = _varlen_function()
    assert function is not None
    cut = bounds.to(torch.int32)
    return function(queries, keys, values, cut, cut, longest, longest, **({"scale": scale} if scales else {}))
