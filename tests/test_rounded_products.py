"""Where torch may round the inputs of fp32 products, to tf32 or bf16, no method decides by such a product."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from prunevid_qwen.config import option_classes
from prunevid_qwen.contract import evidence, only_what_it_asks_for
from prunevid_qwen.kernels import distances
from prunevid_qwen.reducer import made_by

_PRODUCTS = {"mm", "bmm", "addmm", "baddbmm"}
METHODS = [
    (stage, name)
    for part, stage in option_classes.STAGES.items() if part in ("merger", "selector")
    for name in option_classes._CLASSES[part] if name != "glimpse"  # a network, in the types of its weights
]  # fmt: skip


class _Products(TorchDispatchMode):
    """The dtypes of matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in _PRODUCTS:
            self.dtypes |= {each.dtype for each in args if isinstance(each, Tensor)}
        return func(*args, **(kwargs or {}))


@pytest.fixture
def rounded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # distances of fp32 products are made again in fp64, all of them: tests/test_dpc_knn.py
    monkeypatch.setattr(distances, "_products", lambda rows, points: (rows.double() @ points.double().mT).float())
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize(("stage", "name"), METHODS)
def test_no_product_that_decides_is_fp32(rounded: None, stage: int, name: str) -> None:
    reducer = made_by(option_classes.options_class({1: "merger", 2: "selector"}[stage], name)(), stage)
    seen = evidence("one video")
    with _Products() as products:
        reducer.plan(only_what_it_asks_for(reducer, seen))
    assert products.dtypes <= {torch.float64}
