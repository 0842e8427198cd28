"""How often code would make the host wait for a GPU, counted on CPU tensors.

Counted are Python's questions to a tensor (`item`, `tolist`, `bool`, `int`, `cpu`, ...) and the operators whose output
has a size that only the device knows (`nonzero`, `masked_select`, `unique`, an index with a mask). What Triton's
interpreter does inside a launch is not: on a GPU the launch asks nothing.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

ASKING = ("item", "tolist", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__")
WAITING = {
    "aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::bincount", "aten::_unique2",
    "aten::unique_dim", "aten::unique_consecutive", "aten::equal", "aten::is_nonzero", "aten::allclose",
}  # fmt: skip


class _Waiting(TorchDispatchMode):
    def __init__(self, seen: list[str], paused: list[bool]) -> None:
        super().__init__()
        self.seen, self.paused = seen, paused

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, given = func._schema.name, kwargs or {}
        waits = name in WAITING or (name == "aten::repeat_interleave" and given.get("output_size") is None)
        if name in ("aten::index", "aten::index_put", "aten::index_put_"):
            waits = any(each is not None and each.dtype in (torch.bool, torch.uint8) for each in args[1])
        if waits and not any(self.paused):
            self.seen.append(name)
        return func(*args, **given)


@contextlib.contextmanager
def host_syncs() -> Iterator[list[str]]:
    """Fill the list with what would have waited, one entry a question; a question inside another counts once."""
    seen: list[str] = []
    paused: list[bool] = []

    @contextlib.contextmanager
    def pause() -> Iterator[None]:
        paused.append(True)
        try:
            yield
        finally:
            paused.pop()

    def asking(name: str, original: Any) -> Any:
        def ask(*args: Any, **kwargs: Any) -> Any:
            if not paused:
                seen.append(name)
            with pause():
                return original(*args, **kwargs)

        return ask

    with contextlib.ExitStack() as stack:
        for name in ASKING:
            stack.enter_context(mock.patch.object(Tensor, name, asking(name, getattr(Tensor, name))))
        if importlib.util.find_spec("triton") is not None:
            from triton.runtime.interpreter import GridExecutor

            launch = GridExecutor.__call__

            def unseen(*args: Any, **kwargs: Any) -> Any:
                with pause():
                    return launch(*args, **kwargs)

            stack.enter_context(mock.patch.object(GridExecutor, "__call__", unseen))
        stack.enter_context(_Waiting(seen, paused))
        yield seen
