"""Write tests/data/stock_pixels.npz with the stock processors and torchvision: python -m tests.make_stock_pixels."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import numpy as np

from tests.stock import CASES, TORCHVISION_OPERATORS, checksum, stock_pixels


def main() -> None:
    exec(TORCHVISION_OPERATORS, globals())
    from transformers import Qwen2VLImageProcessor

    backend = Qwen2VLImageProcessor.__mro__[1].__name__
    assert backend == "TorchvisionBackend", f"the torchvision-backed processors are the reference, got {backend}"
    golden = {}
    for case in CASES:
        values, grid = stock_pixels(case)
        golden[f"{case.name}/sha256"] = np.array(checksum(values))
        golden[f"{case.name}/grid"] = grid.numpy()
        # A few rows say how far off a difference is, where a checksum only says that there is one.
        golden[f"{case.name}/rows"] = values[:: max(1, len(values) // 3)][:4].numpy()
    made_with = {name: version(name) for name in ("transformers", "torch", "torchvision")}
    golden["made_with"] = np.array(str(made_with))
    np.savez_compressed(Path(__file__).parent / "data" / "stock_pixels.npz", **golden)


if __name__ == "__main__":
    main()
