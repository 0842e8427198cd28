"""What ``torch.compile`` made runs uncompiled while a model is pruned: its graphs know nothing of later hooks.

A graph is taken when a compiled model is first called, with the hooks of that moment, and torch does not look for
others later (`torch._dynamo.config.skip_nnmodule_hook_guards`): the model would go on without pruning, and say nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from prunevid_qwen.errors import UnsupportedError


class _Blocks:
    """The blocks that are open: the stance of torch's compiler is one for the process, and blocks may overlap."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.count = 0
        self.first: Any = None  # knows the stance to go back to


_open = _Blocks()


@contextmanager
def uncompiled() -> Iterator[None]:
    """Run everything uncompiled inside the block, in each thread. The last block that closes restores what was before.

    Raises:
        UnsupportedError: the block is inside a compiled function.
    """
    with _open.lock:
        try:
            stance = torch.compiler.set_stance("force_eager")
        except RuntimeError as error:
            raise UnsupportedError(
                "`pruned` was opened inside a compiled function, but models are pruned uncompiled: open the block "
                "outside that function, or do not compile the function"
            ) from error
        _open.first = stance if _open.count == 0 else _open.first
        _open.count += 1
    try:
        yield
    finally:
        with _open.lock:
            _open.count -= 1
            if _open.count == 0:
                _open.first.__exit__(None, None, None)
