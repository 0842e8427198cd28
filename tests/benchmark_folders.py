"""Miniature folders of every benchmark, in the layouts that its download leaves, with real videos of a few frames."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

from PIL import Image

from prunevid_qwen.evaluation.datasets import benchmark
from tests.benchmark_files import (
    RATE,
    SIZE,
    Clips,
    put_frames,
    snapshot,
    write_arrow,
    write_json,
    write_parquet,
)
from tests.media import FAST_VP9, frame

__all__ = [
    "FAST_VP9", "RATE", "SIZE", "Clips", "put_frames", "snapshot", "write_all", "write_arrow", "write_json",
    "write_parquet",
]  # fmt: skip

HARD_QUESTION = 'What is "it" {0} of %s?\n她在做什么 It\'s {so}.'
HARD_OPTIONS = ("A man runs.", "A man", "3", "yes", "say (B)")
"""Begins with an article; one is the beginning of another; a number; a yes; a letter in brackets."""


# What a task's clips are called in branch main: the name in the questions, and where the clip lies under video/.
_NAMES = {
    "star/Charades_v1_480": "Z{}.mp4",
    "sta/sta_video": "S{}.mp4",
    "ssv2_video": "{}.webm",
    "nturgbd": "S00{}C003P007R001A004_rgb.avi",
    "tvqa/frames_fps3_hq": "castle_s01e0{}_seg02_clip_00",
    "vlnqa": "left/{}_frame7.mp4",
}


def mvbench(root: Path, clips: Clips, branch: str = "main", video: str = "video") -> Path:
    """Two questions a task; of branch "video" the clips are cut and in mp4. `video` "" is how lmms-eval unpacks it."""
    (root / video).mkdir(parents=True, exist_ok=True)
    configs = []
    for task, where in benchmark("mvbench").each.items():
        whole, bound, records = where["whole"], where.get("bound"), []
        for number in (1, 2):
            name = _NAMES.get(whole, f"{task}_{{}}.mp4").format(number)
            record = mvbench_record(task, number, name)
            if bound:
                record |= {"start": 0.5, "end": 1.5, "accurate_start": 0.6, "fps": 3}
            if branch == "main":
                _put(root / video / whole / name, clips)
            else:
                cut = f"{Path(name).stem}_0.5_1.5.mp4" if bound else str(Path(name).with_suffix(".mp4"))
                record["video"] = cut
                clips.put(root / video / where["cut"] / cut)
            records.append(record)
        write_json(root / "json" / f"{task}.json", records)
        configs.append(f"- config_name: {task}\n  data_files: json/{task}.json\n")
    (root / "README.md").write_text("---\nconfigs:\n" + "".join(configs) + "---\n")
    if branch == "main":  # two clips were replaced later and lie in the second root alone
        for folder, name in (("star/Charades_v1_480", "Z2.mp4"), ("clevrer/video_validation", "moving_count_2.mp4")):
            (root / video / "data0613" / folder).mkdir(parents=True)
            shutil.move(root / video / folder / name, root / video / "data0613" / folder / name)
    return root


def mvbench_record(task: str, number: int, video: str, **more: Any) -> dict[str, Any]:
    if number == 2:
        return {"video": video, "question": HARD_QUESTION, "candidates": list(HARD_OPTIONS), "answer": "3", **more}
    return {"video": video, "question": f"What of {task}?", "candidates": ["yes", "no"], "answer": "no", **more}


def _put(path: Path, clips: Clips) -> None:
    if path.suffix:
        clips.put(path)
    else:
        put_frames(path)


VIDEOMME = (("-aBc_1", ".mp4", "short"), ("_x-Y2", ".mkv", "medium"), ("Q3dEf-", ".MP4", "long"))
SRT = (
    "\ufeff1\r\n00:00:00,000 --> 00:00:00,800\r\n"
    '<font color="white" size=".72c">Hello &amp;</font>\r\nwelcome\r\n\r\n'
    "2\r\n00:00:00,500 --> 00:00:01,200\r\nover it\r\n\r\n3\r\n00:00:01,200 --> 00:00:01,300\r\n\r\n"
    "4\r\n00:00:01,300 --> 00:01:02.500\r\n{\\an8}5\r\n"
)
"""A byte order mark, tags, CRLF, two cues that overlap, one without text, one whose text is a number."""


def videomme_rows() -> list[dict[str, Any]]:
    return [
        {
            "video_id": f"{place:03d}",
            "duration": duration,
            "domain": "Multilingual",
            "sub_category": "Multilingual",
            "url": f"https://www.youtube.com/watch?v={video}",
            "videoID": video,
            "question_id": f"{place:03d}-{number}",
            "task_type": "OCR Problems",
            "question": HARD_QUESTION if number == 1 else "What?",
            "options": ["A. A man.", "B. B. B. King", "C. 3", "D. None of the above."],
            "answer": "ABCD"[number],
        }
        for place, (video, _, duration) in enumerate(VIDEOMME, 1)
        for number in (1, 2, 3)
    ]


def videomme(root: Path, clips: Clips) -> Path:
    """Three videos of three questions; ids begin with - and _; one mkv, one MP4; one has no subtitles."""
    write_parquet(root / "videomme" / "test-00000-of-00001.parquet", videomme_rows())
    (root / "subtitle").mkdir(parents=True, exist_ok=True)
    for video, suffix, _ in VIDEOMME:
        clips.put(root / "data" / f"{video}{suffix}")
    for video, _, _ in VIDEOMME[:2]:
        (root / "subtitle" / f"{video}.srt").write_bytes(SRT.encode())
    return root


def egoschema(root: Path, clips: Clips) -> Path:
    """Three questions, two of them with answers, as in the authors' repository."""
    uids = [f"{number:08x}-aaaa" for number in range(3)]
    questions = [
        {"q_uid": uid, "google_drive_id": "x", "question": HARD_QUESTION}
        | {f"option {k}": f"C does {k}" for k in range(5)}
        for uid in uids
    ]
    write_json(root / "questions.json", questions)
    write_json(root / "subset_answers.json", {uids[2]: 4, uids[0]: 0})
    for uid in uids:
        clips.put(root / "videos" / f"{uid}.mp4")
    return root


def egoschema_mirror(root: Path) -> Path:
    """The same questions as in the hub's tables."""
    rows = [
        {
            "question_idx": str(number),
            "question": HARD_QUESTION,
            "video_idx": f"{number:08x}-aaaa",
            "option": [f"{letter}. C does {k}" for k, letter in enumerate("ABCDE")],
            "answer": {0: "0", 2: "4"}.get(number),
        }
        for number in range(3)
    ]
    write_parquet(root / "GENERATION" / "test-00000-of-00001.parquet", [row | {"answer": None} for row in rows])
    write_parquet(root / "Subset" / "test-00000-of-00001.parquet", [rows[0], rows[2]])
    return root


def longvideobench_rows() -> list[dict[str, Any]]:
    return [
        {
            "video_id": video,
            "id": f"{video}_{number}",
            "video_path": f"{video}.mp4",
            "subtitle_path": f"{video}_en.json",
            "question": HARD_QUESTION,
            "candidates": ["red", "blue", "N/A", "grey", "green"][:options],
            "correct_choice": options - 1,
            "duration": 2.0,
            "duration_group": group,
            "question_category": "S2E",
            "topic_category": "KA-Knowledge-Art",
            "level": "IntraMoment",
            "starting_timestamp_for_subtitles": first,
        }
        for number, (video, group, options, first) in enumerate((("one", 15, 4, 60.0), ("two", 3600, 5, 0)))
    ]


def longvideobench(root: Path, clips: Clips) -> Path:
    """Two videos; the first was cut out of a longer one at a minute, and its subtitles were not."""
    write_json(root / "lvb_val.json", longvideobench_rows())
    for video in ("one", "two"):
        clips.put(root / "videos" / f"{video}.mp4")
    cues = [("00:00:01.000", "00:00:02.000", "before"), ("00:00:59.500", "00:01:01.000", "<i>in</i>")]
    cues += [("00:01:30.000", "00:01:31.000", "after")]
    keys = ("start", "end", "line")
    write_json(root / "subtitles" / "one_en.json", [dict(zip(keys, cue, strict=True)) for cue in cues])
    second = [{"timestamp": [0.5, 1.0], "text": "said"}, {"timestamp": [1.0, None], "text": "to the end"}]
    write_json(root / "subtitles" / "two_en.json", second)
    return root


def mlvu(root: Path, clips: Clips) -> Path:
    """One question a task with options, all about videos of one name; and a task of free generation, to be left out."""
    for task, where in benchmark("mlvu").each.items():
        name = where["name"]
        record = {"video": "movie101_1.mp4", "duration": 2.0, "question": f"{task}?", "question_type": task}
        record |= {"candidates": ["3", "4", "A man", "3"], "answer": "3" if task == "count" else "A man"}
        write_json(root / "json" / f"{name}.json", [record])
        clips.put(root / "video" / name / "movie101_1.mp4")
    write_json(root / "json" / "9_summary.json", [{"video": "x.mp4", "question": "Sum up.", "answer": "long"}])
    return root


LETTER_REQUEST = "Answer with the option's letter from the given choices directly."
"""What V*'s file appends to every question."""


def vstar(root: Path) -> Path:
    """Four images: turned by EXIF, grey, with transparency and of odd size, and very wide."""
    asked = (("direct_attributes", "sa_1.jpg", 4), ("direct_attributes", "sa_2.jpg", 4))
    asked += (("relative_position", "sa_3.png", 2), ("relative_position", "sa_4.png", 2))
    lines = []
    for number, (category, name, options) in enumerate(asked):
        listed = "\n".join(f"({letter}) A {letter.lower()}" for letter in "ABCD"[:options])
        lines.append(
            {
                "image": f"{category}/{name}",
                "text": f"What is {{it}}?\n{listed}\n{LETTER_REQUEST}",
                "category": category,
                "label": "B",
                "question_id": str(number),
            }
        )
        (root / category).mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(frame(number, *SIZE))
        more: dict[str, Any] = {}
        if number == 0:
            more["exif"] = picture.getexif()
            more["exif"][0x0112] = 6
        shaped = (picture, picture.convert("L"), picture.resize((63, 47)).convert("RGBA"), picture.resize((402, 2)))
        shaped[number].save(root / category / name, **more)
    (root / "test_questions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return root


def nextqa_rows() -> list[dict[str, Any]]:
    """Two videos; an option with a comma, a quotation mark and a line break, which csv has in quotes; spaces."""
    hard = ("hold the child's hand, tight", 'say "yes"', "turn\nround", " walk ", "run")
    asked = ((4010069381, "CH", 0), (4010069381, "TN", 6), (2435100235, "DL", 0), (2435100235, "TC", 1))
    return [
        {"video": video, "frame_count": 12, "width": 64, "height": 48, "question": f" what of {kind} {{x}}",
         "answer": number, "qid": qid, "type": kind, **{f"a{k}": option for k, option in enumerate(hard)}}
        for number, (video, kind, qid) in enumerate(asked)
    ]  # fmt: skip


def nextqa(root: Path, clips: Clips) -> Path:
    """As the authors have it: csv files, and videos where VidOR has them; the second is known by its number alone."""
    rows = nextqa_rows()
    root.mkdir(parents=True, exist_ok=True)
    for part, own in (("test", rows), ("val", rows[:1])):
        with (root / f"{part}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(own)
    write_json(root / "map_vid_vidorID.json", {"4010069381": "1164/4010069381", "2435100235": "0005/2435100235"})
    clips.put(root / "NExTVideo" / "1164" / "4010069381.mp4")
    clips.put(root / "NExTVideo" / "2435100235.mp4")
    return root


def tempcompass(root: Path, clips: Clips) -> Path:
    """One question an aspect, with two to four options, about two videos."""
    rows = []
    for number, dim in enumerate(("action", "direction", "speed", "order", "attribute_change")):
        options = [f"{letter}. a {letter.lower()}. {{x}}" for letter in "ABCD"[: 2 + number % 3]]
        asked = f"What happens in the video ({dim})?"
        rows.append({"video_id": f"{10 + number % 2}_{dim[0]}", "question": "\n".join([asked, *options]),
                     "answer": options[number % 2], "dim": dim})  # fmt: skip
        clips.put(root / "videos" / f"{rows[-1]['video_id']}.mp4")
    write_parquet(root / "multi-choice" / "test-00000-of-00001.parquet", rows)
    return root


WRITERS = {
    "mvbench": mvbench,
    "videomme": videomme,
    "egoschema": egoschema,
    "longvideobench": longvideobench,
    "mlvu": mlvu,
    "vstar": lambda root, clips: vstar(root),
    "nextqa": nextqa,
    "tempcompass": tempcompass,
}


def missing(name: str) -> str:
    """What to add for a benchmark that has no miniature."""
    return f"write a small folder of {name} by a function of tests/benchmark_folders.py, and add it to WRITERS there"


def write_all(root: Path, clips: Clips) -> dict[str, Path]:
    """Every benchmark in a folder of its registry name."""
    return {name: write(root / name, clips) for name, write in WRITERS.items()}
