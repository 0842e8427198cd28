"""Every Triton kernel compiles for three GPUs that are not there, spills nothing and fits their shared memory.

Most of a minute: the smallest is compiled in `make test`, the others are nightly. Who changes a kernel runs this file.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.ahead_of_time import SHARED_BYTES, TARGETS

ROOT = Path(__file__).resolve().parent.parent
SMALLEST = "cluster_mean_triton"
KERNELS = sorted(path.stem for path in (ROOT / "prunevid_qwen" / "kernels").glob("*.py") if "triton" in path.stem)

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed here (there are wheels for Linux alone)"
)


@functools.cache
def compiled(kernel: str) -> list[dict[str, Any]]:
    """Compile in a process without the interpreter, which must be chosen before triton is imported."""
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_DEFAULT_FP_FUSION": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.ahead_of_time", kernel],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.nightly
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "kernel", [each if each == SMALLEST else pytest.param(each, marks=pytest.mark.nightly) for each in KERNELS]
)
def test_compiles_without_spills_and_fits(kernel: str, target: str) -> None:
    cases = [case for case in compiled(kernel) if case["kernel"] == kernel and case["target"] == target]
    assert cases, "nothing was compiled"
    wrong = [case for case in cases if "error" in case or case["spilled"] or case["shared"] > SHARED_BYTES[target]]
    assert not wrong, "\n".join(map(json.dumps, wrong))
