"""How far torch's own matrix products of fp32 numbers may be trusted."""

from __future__ import annotations

import torch


def products_are_rounded() -> bool:
    """True when the user lets torch round the inputs of fp32 products to tf32 or bf16."""
    try:
        return torch.get_float32_matmul_precision() != "highest"
    except RuntimeError:  # torch's old and new switches were mixed: it will not say
        return True
