"""Write tests/data/stock_qwen3.npz with Qwen3-VL's stock processor and torchvision: python -m tests.make_stock_qwen3.

Run it with transformers 5.24, then with 5.6: what the second adds are ids alone, from before 5.10.
"""

from __future__ import annotations

import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np

from tests.stock import TORCHVISION_OPERATORS, checksum
from tests.stock_qwen3 import CASES, PROMPTS, stock_inputs, stock_pixels

PIXELS = ("pixel_values_videos", "pixel_values")
TARGET = Path(__file__).parent / "data" / "stock_qwen3.npz"


def main() -> None:
    exec(TORCHVISION_OPERATORS, globals())
    from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor

    golden = dict(np.load(TARGET)) if TARGET.exists() and sys.argv[1:] == ["--add"] else {}
    older = not hasattr(Qwen3VLProcessor, "replace_video_token")
    made_with = {name: version(name) for name in ("transformers", "torch", "torchvision")}
    golden[f"made_with/{'older' if older else 'newer'}"] = np.array(str(made_with))
    for case in [] if older else CASES:
        values, grid = stock_pixels(case)
        golden[f"{case.name}/sha256"], golden[f"{case.name}/grid"] = np.array(checksum(values)), grid.numpy()
        golden[f"{case.name}/rows"] = values[:: max(1, len(values) // 3)][:4].numpy()
    for prompt in PROMPTS:
        with tempfile.TemporaryDirectory() as folder:
            files = prompt.write(Path(folder))
            if older:  # the very same files
                for i, file in enumerate(files):
                    file.write_bytes(golden[f"{prompt.name}/file{i}"].tobytes())
            inputs, frames = stock_inputs(prompt, files)
            contents = [np.frombuffer(file.read_bytes(), np.uint8) for file in files]
        ids = inputs["input_ids"].numpy().astype(np.int16)
        golden[f"{prompt.name}/ids/{'older' if older else 'newer'}"] = ids
        if older:
            continue
        for i, (content, shown) in enumerate(zip(contents, frames, strict=True)):
            golden[f"{prompt.name}/file{i}"], golden[f"{prompt.name}/frames{i}"] = content, shown
        for name, value in inputs.items():
            if name in PIXELS:
                golden[f"{prompt.name}/{name}"] = np.array(checksum(value))
            elif name != "input_ids":
                golden[f"{prompt.name}/{name}"] = value.numpy().astype(np.int16)
    np.savez_compressed(TARGET, **golden)


if __name__ == "__main__":
    main()
