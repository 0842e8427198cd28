"""Write tests/data/stock_videos.npz with the library's video processors: python -m tests.make_stock_videos."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np

from tests.stock import TORCHVISION_OPERATORS, checksum
from tests.stock_videos import CLASSES, CLIPS, SETTINGS, stock_defaults, stock_pixels


def main() -> None:
    exec(TORCHVISION_OPERATORS, globals())
    golden = {}
    for family in SETTINGS:
        if family in CLASSES:
            golden[f"{family}/defaults"] = np.array(json.dumps(stock_defaults(family)))
        for clip in CLIPS:
            values = stock_pixels(family, clip)
            golden[f"{family}/{clip.name}/sha256"] = np.array(checksum(values))
            # some rows say how far off a difference is, where a checksum only says that there is one
            golden[f"{family}/{clip.name}/rows"] = values[-1, :, ::97, ::7].numpy()
    golden["made_with"] = np.array(str({name: version(name) for name in ("transformers", "torch", "torchvision")}))
    np.savez_compressed(Path(__file__).parent / "data" / "stock_videos.npz", **golden)


if __name__ == "__main__":
    main()
