"""Whether Triton's interpreter runs kernels on this machine, asked once by running one."""

from __future__ import annotations

import functools
import importlib.util
import os

import pytest
import torch


@functools.cache
def why_not() -> str:
    """Return why kernels cannot be interpreted here, or nothing."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed here (there are wheels for Linux alone)"
    if os.environ.get("TRITON_INTERPRET") != "1":
        return "TRITON_INTERPRET is not 1"
    from tests.interpreted_sum import total

    out = torch.zeros(1)
    try:
        total[(1,)](out, 3)
    except Exception as error:  # whatever it raises: triton 3.6 with numpy 2.4 takes no number as a loop's end
        return f"Triton's interpreter does not work with the libraries here: {error}"
    return "" if out.item() == 3 else f"Triton's interpreter counts 3 ones as {out.item()}"


needs_interpreter = pytest.mark.skipif(bool(why_not()), reason=why_not() or "-")
