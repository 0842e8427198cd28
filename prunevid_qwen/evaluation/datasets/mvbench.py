"""MVBench (Li et al., arXiv 2311.17005): 20 tasks of 200 questions, as both branches of its repository have them.

Branch ``main`` has the source videos and gives the seconds that a question is about; branch ``video`` has clips that
are cut already, and bounds must not be applied to those again. Which of the two a folder holds is seen clip by clip, so
a folder into which both were unpacked works. ``data0613`` holds clips that were replaced later; it is searched second.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from prunevid_qwen.evaluation.datasets.annotations import Row, rows
from prunevid_qwen.evaluation.datasets.choices import letter_of
from prunevid_qwen.evaluation.datasets.places import existing, first_there, with_other_endings
from prunevid_qwen.evaluation.datasets.record import Media, Record
from prunevid_qwen.evaluation.datasets.registry import Dataset, Problem, Wanted, no_questions, register

FRAMES_PER_SECOND = 3.0
"""Of the frame folders, whose pictures are numbered from 1."""

_PER_TASK = 200
_REPOSITORIES = ("OpenGVLab/MVBench",)


@dataclass(frozen=True)
class _Clips:
    """Folder of a task's clips in branch main, in branch video, and whether questions are about a part of them."""

    whole: str
    cut: str
    bound: bool = False


_STAR = _Clips("star/Charades_v1_480", "star/Charades_segment", bound=True)
_CLEVRER = _Clips("clevrer/video_validation", "clevrer/video_validation")
_PERCEPTION = _Clips("perception/videos", "perception/videos")

TASKS: dict[str, _Clips] = {
    "action_sequence": _STAR,
    "action_prediction": _STAR,
    "action_antonym": _Clips("ssv2_video", "ssv2_video_mp4"),
    "fine_grained_action": _Clips("Moments_in_Time_Raw/videos", "Moments_in_Time_Raw/videos"),
    "unexpected_action": _Clips("FunQA_test/test", "FunQA_test/test"),
    "object_existence": _CLEVRER,
    "object_interaction": _STAR,
    "object_shuffle": _PERCEPTION,
    "moving_direction": _CLEVRER,
    "action_localization": _Clips("sta/sta_video", "sta/sta_video_segment", bound=True),
    "scene_transition": _Clips("scene_qa/video", "scene_qa/video"),
    "action_count": _PERCEPTION,
    "moving_count": _CLEVRER,
    "moving_attribute": _CLEVRER,
    "state_change": _PERCEPTION,
    "fine_grained_pose": _Clips("nturgbd", "nturgbd_convert"),
    "character_order": _PERCEPTION,
    "egocentric_navigation": _Clips("vlnqa", "vlnqa"),
    "episodic_reasoning": _Clips("tvqa/frames_fps3_hq", "tvqa/video_fps3_hq_segment", bound=True),
    "counterfactual_inference": _CLEVRER,
}
"""In the order of the paper's table."""

_NTU = (
    "the NTU RGB+D clips of fine_grained_pose were withdrawn from the download in October 2024 (their licence): ask "
    "for them at https://rose1.ntu.edu.sg/dataset/actionRecognition/ and put the *_rgb.avi files into video/nturgbd, "
    "or go on with 19 tasks"
)
_REPLACED = "some clips of clevrer and star come in data0613.zip: unpack it beside the others, into video/data0613"
_ADVICE = (("nturgbd", _NTU), ("clevrer/", _REPLACED), ("star/", _REPLACED))


@register(
    "mvbench",
    "MVBench",
    ("test",),
    "  json/<task>.json               20 files\n"
    "  video/<source>/...             the archives of branch main or video, unpacked (the video folder may be left "
    "out)\n"
    "  video/data0613/...             replaced clips",
)
def read(wanted: Wanted) -> Dataset:
    """Read all tasks whose file is there; a task without one is a problem, no error."""
    shelves = wanted.shelves(*_REPOSITORIES)
    roots = _roots(wanted.folder)
    records: list[Record] = []
    files: list[Path] = []
    problems: list[Problem] = []
    for task, clips in TASKS.items():
        found = shelves.files(f"json/{task}.json", f"{task}.json") or shelves.prepared(task, "train")
        if not found:
            path = wanted.folder / "json" / f"{task}.json"
            problems.append(Problem("missing", str(path), f"the {_PER_TASK} questions of {task} are in it"))
        files += found
        records += [_record(task, clips, roots, number, row) for number, row in enumerate(rows(found))]
    if not files:
        raise no_questions(wanted, "mvbench", "json/<task>.json")
    return Dataset(
        "mvbench", "MVBench", wanted.part, wanted.folder, tuple(records), tuple(files), "task", _PER_TASK * len(TASKS),
        tuple(problems), advice=_ADVICE,
    )  # fmt: skip


def _roots(folder: Path) -> list[Path]:
    """Return where the sources' folders lie: lmms-eval unpacks them without a video folder around them."""
    first = list(existing([folder / "video", folder / "mvbench_video", folder]))
    return [*first, *(root / "data0613" for root in first)]


def _record(task: str, clips: _Clips, roots: list[Path], number: int, row: Row) -> Record:
    name = f"{task}/{number}"
    row = dataclasses.replace(row, where=f"{row.where} ({name})")
    options = row.texts("candidates")
    video = row.text("video")
    bounds = (row.seconds("start"), row.seconds("end")) if clips.bound else (None, None)
    return Record(
        name,
        (_media(clips, roots, video, *bounds),),
        row.text("question"),
        options,
        letter_of(row.text("answer"), options, row.where),
        {"task": task, "video": f"{clips.whole}/{video}"},
    )


def _media(clips: _Clips, roots: list[Path], video: str, start: float | None, end: float | None) -> Media:
    path = first_there(place for root in roots for place in with_other_endings(root / clips.whole / video))
    if path is None and clips.cut != clips.whole:
        names = list(_names_of_cut(video, start, end))
        path = first_there(
            place for root in roots for each in names for place in with_other_endings(root / clips.cut / each)
        )
        if path is not None or (
            any((root / clips.cut).is_dir() for root in roots)
            and not any((root / clips.whole).is_dir() for root in roots)
        ):
            return Media("video", str(path or roots[0] / clips.cut / video))  # nothing but the part asked about
    if path is None:
        path = roots[0] / clips.whole / video
    if path.is_dir() or (not path.exists() and not path.suffix):
        return Media("frames", str(path), start, end, FRAMES_PER_SECOND)
    return Media("video", str(path), start, end)


def _names_of_cut(video: str, start: float | None, end: float | None) -> Iterator[str]:
    """Yield what a clip may be called in branch video: its questions name it, those of branch main name its source."""
    yield video
    if start is not None and end is not None:
        path = Path(video)
        stem = path.with_suffix("") if path.suffix == ".mp4" else path
        yield f"{stem}_{start}_{end}.mp4"
