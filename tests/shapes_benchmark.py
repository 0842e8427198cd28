"""A benchmark that the bundled model can answer: MVBench's folder, with videos of moving shapes and their questions."""

from __future__ import annotations

from pathlib import Path

from prunevid_qwen.moving_shapes import FIRST_HELD_OUT_SEED, make_questions, make_scene, render
from prunevid_qwen.moving_shapes.video_file import write_video
from tests.benchmark_folders import write_json

TASKS = ("unexpected_action", "object_existence", "action_count")
_PLACES = {
    "unexpected_action": "FunQA_test/test",
    "object_existence": "clevrer/video_validation",
    "action_count": "perception/videos",
}
FIRST_SEED = FIRST_HELD_OUT_SEED + 7_000_000


def shapes_mvbench(root: Path, videos: int = 3, questions: int = 4) -> Path:
    """Write three tasks of ``videos`` videos with ``questions`` questions each; return the folder."""
    for place, task in enumerate(TASKS):
        records = []
        for number in range(videos):
            seed = FIRST_SEED + 100 * place + number
            scene = make_scene(seed)
            name = f"{task}_{number}.mp4"
            path = root / "video" / _PLACES[task] / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write_video(path, render(scene, 16), fps=2.0)
            for asked in make_questions(scene, seed, multiple_choice=True)[:questions]:
                text = asked.text.splitlines()[0]
                record = {"video": name, "question": text, "candidates": list(asked.options), "answer": asked.word}
                records.append(record)
        write_json(root / "json" / f"{task}.json", records)
    return root
