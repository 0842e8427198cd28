"""What `make gpu-check` checks, for pytest on a GPU machine: ``TRITON_INTERPRET=0 python -m pytest tests/gpu``."""

from __future__ import annotations

import itertools
import os

import pytest
import torch

from tests.gpu.parts import Check, kernel_checks, path_checks

GPU = torch.device("cuda")
CHECKS = list(itertools.chain(kernel_checks(GPU, 0), path_checks(GPU, 0)))

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA or ROCm device that torch sees"),
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="kernels are interpreted: TRITON_INTERPRET=0"),
]


@pytest.mark.parametrize("check", CHECKS, ids=[name for name, _ in CHECKS])
def test_on_a_gpu(check: Check) -> None:
    found = check[1]()
    assert not isinstance(found, str) or not found, found
