"""Write pictures of moving shapes to disk in Visual-CoT's layout: real files that the bundled model understands."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from prunevid_qwen.errors import ConfigError
from prunevid_qwen.moving_shapes import FIRST_HELD_OUT_SEED, boxes, make_scene, render, sample_questions
from prunevid_qwen.training.glimpse.shapes_data import HELD_OUT_SEED, HELD_OUT_VIDEOS, asked_about

DATA_SET = "moving_shapes"
_SIDE = 112  # the largest picture the bundled model takes without shrinking it
_MOMENT = np.array([0.5])
_APART = 8  # keeps these draws apart from the videos'


def write_shapes_folder(folder: str | Path, count: int, seed: int = 0, held_out: bool = False) -> Path:
    """Write ``moving_shapes/000000.png``, ... and the records about them.

    Every picture is 112 x 112 and shows all objects of its scene; it is asked one question, answered with one word.
    Read it back with ``DataSpec("visual_cot", path=<what is returned>, images=<folder>)``.

    Args:
        folder: where to; made if missing, files of the same names are replaced.
        count: pictures, 1 to 1,000,000.
        seed: which pictures, at least 0.
        held_out: take scenes that nothing is trained on.

    Returns: the path of ``moving_shapes_cot_train.jsonl``, or ``..._val.jsonl`` held out.

    Raises:
        ConfigError: count or seed is outside its range.
    """
    from PIL import Image

    if not 1 <= count <= HELD_OUT_VIDEOS or seed < 0:
        raise ConfigError(f"count is 1 to {HELD_OUT_VIDEOS} and seed at least 0, got count={count} and seed={seed}")
    folder, split = Path(folder), "val" if held_out else "train"
    (folder / DATA_SET).mkdir(parents=True, exist_ok=True)
    path = folder / f"{DATA_SET}_cot_{split}.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            rng = np.random.default_rng([_APART, int(held_out), seed, number])
            made_of = HELD_OUT_SEED + number if held_out else int(rng.integers(0, FIRST_HELD_OUT_SEED))
            scene = make_scene(made_of, _SIDE, _SIDE, brief_share=0.0, late_share=0.0)
            question = sample_questions(scene, rng, 1, moving=False)[0]
            name = f"{'val_' * held_out}{number:06d}.png"
            Image.fromarray(render(scene, _MOMENT)[0]).save(folder / DATA_SET / name)
            record = {
                "question": question.text,
                "answer": question.answer,
                "image": name,
                "width": _SIDE,
                "height": _SIDE,
                "bboxs": boxes(scene, _MOMENT)[list(asked_about(scene, question)), 0].tolist(),
                "dataset": DATA_SET,
                "split": split,
                "question_id": number,
            }
            file.write(json.dumps(record) + "\n")
    return path
