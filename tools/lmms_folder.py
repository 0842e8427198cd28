"""What ``tools/test_lmms.py`` asks about: MVBench in miniature as lmms-eval unpacks it, and a task of mixed content."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the tests' folders are no part of the package

from prunevid_qwen.evaluation.datasets import benchmark
from prunevid_qwen.moving_shapes import make_questions, render, write_video
from prunevid_qwen.moving_shapes.conditions import CONDITIONS

tests_folders: Any = importlib.import_module("tests.benchmark_folders")  # Any: tests are not type-checked

_TASKS = benchmark("mvbench").each

FIRST_SEED = 1_007_000_000
"""Where the videos begin; nobody was trained on them."""

RATE = 6
MIXED = 8
"""Requests of the task of mixed content; the last three cannot be answered."""

_MIXED_YAML = """\
task: mixed
dataset_path: json
dataset_kwargs: {{data_files: {{test: {docs}}}}}
test_split: test
output_type: generate_until
doc_to_messages: !function mixed.messages
doc_to_text: question
doc_to_target: question
process_results: !function mixed.process
generation_kwargs: {{max_new_tokens: 4, do_sample: false, until: ["\\n\\n"]}}
metric_list: [{{metric: said, aggregation: !function mixed.count, higher_is_better: true}}]
"""

_MIXED_CODE = '''\
import sys

from PIL import Image


def messages(doc):
    """Text alone, image files, images in memory, two videos, a part of a video, and three that cannot be."""
    if doc["media"] == ["exit"]:
        sys.exit("video path: gone.mp4 does not exist, please check")
    content = []
    for path in doc["media"]:
        if path.startswith("open "):
            content.append({"type": "image", "url": Image.open(path[5:])})
        elif path.endswith(".wav"):
            content.append({"type": "audio", "url": path})
        elif path.endswith(".png"):
            content.append({"type": "image", "url": path})
        else:
            content.append({"type": "video", "url": path, **doc["bounds"]})
    said = [{"role": "user", "content": [*content, {"type": "text", "text": doc["question"]}]}]
    system = {"role": "system", "content": [{"type": "text", "text": "you are helpful"}]}
    return [system, *said] if doc["system"] else said


def process(doc, results):
    return {"said": float(bool(results[0]))}


def count(values):
    return sum(values)
'''


def write_home(home: Path) -> Path:
    """Write a ``HF_HOME`` that lmms-eval finds MVBench's clips in; return the folder of clips and questions.

    Each task has three questions: two about moving shapes, which the bundled model answers, and one of the tests'
    folder, full of odd characters.
    """
    clips = tests_folders.Clips(home / "clips")
    root: Path = tests_folders.mvbench(home / "mvbench_video", clips, "video", video="")
    conditions = list(CONDITIONS.values())
    for number, (task, where) in enumerate(_TASKS.items()):
        path = root / "json" / f"{task}.json"
        records = json.loads(path.read_text(encoding="utf-8"))
        for place in (0, 2):
            seed = FIRST_SEED + 10 * number + place
            scene = conditions[(number + place) % len(conditions)].scene(seed)
            questions = make_questions(scene, seed, multiple_choice=True)
            asked = questions[(number + place) % len(questions)]
            first = Path(records[0]["video"])
            name = str(first if place == 0 else first.with_name(f"{first.stem}_b.mp4"))
            write_video(root / where["cut"] / name, render(scene, 12 + 2 * (number % 5)), RATE)
            record = {"video": name, "question": asked.text.split("\n")[0], "candidates": list(asked.options)}
            records[place : place + 1] = [{**record, "answer": asked.word}]
        path.write_text(json.dumps(records, ensure_ascii=False), encoding="utf-8")
    return root


def write_tasks(folder: Path, data: Path, installed: Path) -> list[str]:
    """Write lmms-eval's own MVBench tasks over the local folder, and the mixed one; return MVBench's names.

    Args:
        folder: for ``--include_path``.
        data: from `write_home`.
        installed: folder of the lmms_eval package.
    """
    folder.mkdir(parents=True)
    for task in _TASKS:
        theirs = installed / "tasks" / "mvbench" / f"mvbench_{task}.yaml"
        assert theirs.is_file(), f"lmms-eval has no {theirs}: another release than this was written for?"
        text = f"include: {theirs}\ntask: {name_of(task)}\ndataset_path: {data}\ndataset_kwargs: {{}}\n"
        (folder / f"{name_of(task)}.yaml").write_text(text, encoding="utf-8")
    _write_mixed(folder, data)
    return [name_of(task) for task in _TASKS]


def name_of(task: str) -> str:
    """Return what a task of MVBench is called here: lmms-eval's own name belongs to its download."""
    return f"local_{task}"


def _write_mixed(folder: Path, data: Path) -> None:
    clips = sorted(str(path) for path in (data / "clevrer" / "video_validation").glob("*_1.mp4"))[:2]
    scene = CONDITIONS["plain"].scene(FIRST_SEED - 1)
    picture, broken = folder / "picture.png", folder / "broken.mp4"
    from PIL import Image

    Image.fromarray(render(scene, 2)[1]).save(picture)
    broken.write_bytes(Path(clips[0]).read_bytes()[:300])
    ask = "what color is the object ?"
    docs = [
        ([], "what color is a white circle ?", {}, False),
        ([str(picture)], ask, {}, False),
        ([f"open {picture}"], ask, {}, True),
        (clips, ask, {}, False),
        (clips[:1], ask, {"start_time": 0.5, "end_time": 1.5}, True),
        (["exit"], ask, {}, False),
        ([str(broken)], ask, {}, False),
        (["sound.wav"], ask, {}, False),
    ]
    keys = ("media", "question", "bounds", "system")
    lines = [json.dumps(dict(zip(keys, doc, strict=True))) for doc in docs]
    assert len(lines) == MIXED
    path = folder / "mixed.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "mixed.yaml").write_text(_MIXED_YAML.format(docs=path), encoding="utf-8")
    (folder / "mixed.py").write_text(_MIXED_CODE, encoding="utf-8")
