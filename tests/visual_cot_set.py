"""Miniature Visual-CoT sets in the layouts they are downloaded in, about pictures that the bundled model can see."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

from prunevid_qwen.config import get_config
from prunevid_qwen.evaluation.tasks.visual_cot import BOX_REQUEST
from prunevid_qwen.moving_shapes import FIRST_HELD_OUT_SEED, Scene, make_scene, render

FEW = "few"
"""Name of the config that `write_sets` lays beside the images: of 16 tokens one is left, and not a well chosen one."""

FIRST_SEED = FIRST_HELD_OUT_SEED + 6_000_000

LINE = {
    "set", "id", "config", "image", "question", "reference", "answer", "tokens", "kept_ratio", "generated_tokens",
    "seconds", "error",
}  # fmt: skip
"""What a stored line of answers holds."""


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "answers.jsonl").read_text(encoding="utf-8").splitlines()]


def still(number: int) -> Scene:
    """A scene of two or three shapes that are there from the first frame on."""
    return make_scene(FIRST_SEED + number, brief_share=0, late_share=0, least_objects=2)


def write_sets(root: Path, samples: int = 2) -> Path:
    """Write two sets of ``samples`` pictures with two questions each; return the folder of their files.

    ``shapes.json`` is as the benchmark, ``colors.jsonl`` as the training data; images lie under ``root``.
    """
    benchmark, training = [], []
    for number in range(samples):
        benchmark += _benchmark_records(root, number, still(number))
        training += _training_records(root, number, still(100 + number))
    few = get_config("paper").replace(selector="random", keep_ratio=0.1, pruning_layer=0)
    few.to_json(root / f"{FEW}.json")
    folder = root / "benchmark"
    folder.mkdir(parents=True)
    (folder / "shapes.json").write_text(json.dumps(benchmark, indent=4))
    (folder / "colors.jsonl").write_text("".join(json.dumps(record) + "\n" for record in training))
    return folder


def _draw(path: Path, scene: Scene) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(render(scene, 1)[0]).save(path)


def _box(scene: Scene, k: int) -> list[int]:
    (x, y), radius = scene.objects[k].origin, scene.objects[k].radius
    return [int(x) - radius, int(y) - radius, int(x) + radius, int(y) + radius]


def _benchmark_records(root: Path, number: int, scene: Scene) -> list[dict[str, Any]]:
    image = f"cot/shapes/{number}.png"
    _draw(root / image, scene)
    records = []
    for k, item in enumerate(scene.objects[:2]):
        box = _box(scene, k)
        turns = [
            ("human", f"<image>\nWhat color is the {item.shape}? {BOX_REQUEST}"),
            ("gpt", str([round(side / 112, 3) for side in box])),
            ("human", "<image>"),
            ("gpt", f"{item.color.capitalize()}."),
        ]
        records.append(
            {
                "dataset": "shapes",
                "split": "val",
                "question_id": 2 * number + k,
                "image": [image, f"{image}###{box}"],
                "conversations": [{"from": who, "value": text} for who, text in turns],
            }
        )
    return records


def _training_records(root: Path, number: int, scene: Scene) -> list[dict[str, Any]]:
    _draw(root / "drawn" / f"{number}.png", scene)
    asked = {"width": 112, "height": 112, "dataset": "drawn", "split": "train", "image": f"{number}.png"}
    return [
        {
            "question": f"What shape is the {item.color} object?",
            "answer": item.shape,
            "bboxs": [_box(scene, k)],
            **asked,
        }
        for k, item in enumerate(scene.objects[:2])
    ]
