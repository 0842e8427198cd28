"""Video-MME (Fu et al., arXiv 2405.21075): 900 videos of three lengths, three questions each, most with subtitles."""

from __future__ import annotations

from pathlib import Path

from prunevid_qwen.errors import MediaError
from prunevid_qwen.evaluation.datasets.annotations import Row, rows
from prunevid_qwen.evaluation.datasets.choices import given_letter, without_letters
from prunevid_qwen.evaluation.datasets.places import existing, video_place
from prunevid_qwen.evaluation.datasets.record import Media, Record, Subtitle
from prunevid_qwen.evaluation.datasets.registry import Dataset, Problem, Wanted, no_questions, register
from prunevid_qwen.evaluation.datasets.subtitles import read_srt

_REPOSITORIES = ("lmms-lab/Video-MME", "lmms-eval/Video-MME")
_GROUPS = {"duration": "duration", "domain": "domain", "sub_category": "sub_category", "task_type": "task_type"}


@register(
    "videomme",
    "Video-MME",
    ("test",),
    "  videomme/test-00000-of-00001.parquet\n"
    "  data/<videoID>.mp4             videos_chunked_*.zip, unpacked (also .MP4, .mkv)\n"
    "  subtitle/<videoID>.srt         subtitle.zip, unpacked",
    subtitles=True,
)
def read(wanted: Wanted) -> Dataset:
    """Read the questions; subtitles on request. 156 of the 900 videos have none, which is no problem."""
    shelves = wanted.shelves(*_REPOSITORIES)
    files = shelves.files("videomme/test-*.parquet", "test-*.parquet") or shelves.prepared("videomme", "test")
    if not files:
        raise no_questions(wanted, "videomme", "videomme/test-*.parquet")
    chunks = sorted(wanted.folder.glob("videos_chunked_*/"))
    folders = existing(
        [
            wanted.folder / "data",
            wanted.folder / "videos",
            *(chunk / "data" for chunk in chunks),
            *chunks,
            wanted.folder,
        ]
    )
    said, problems, notes = _subtitles(wanted)
    records = tuple(_record(row, folders, said) for row in rows(files))
    if wanted.subtitles:
        videos = {record.groups["video"] for record in records}
        silent = len(videos - set(said))
        notes += (f"{silent} of {len(videos)} videos have no subtitles (156 of 900 in the published set)",)
    return Dataset(
        "videomme", "Video-MME", wanted.part, wanted.folder, records, tuple(files), "duration", 2700, problems, notes,
    )  # fmt: skip


def _record(row: Row, folders: tuple[Path, ...], said: dict[str, tuple[Subtitle, ...]]) -> Record:
    video = row.text("videoID")
    options = without_letters(row.texts("options"))
    return Record(
        row.text("question_id"),
        (Media("video", str(video_place(folders, f"{video}.mp4")), subtitles=said.get(video, ())),),
        row.text("question"),
        options,
        given_letter(row.text("answer"), options, row.where),
        {**{name: row.text(column) for name, column in _GROUPS.items()}, "video": video},
    )


def _subtitles(wanted: Wanted) -> tuple[dict[str, tuple[Subtitle, ...]], tuple[Problem, ...], tuple[str, ...]]:
    if not wanted.subtitles:
        return {}, (), ()
    (folder, *_) = existing([wanted.folder / "subtitle", wanted.folder / "subtitles"])
    if not folder.is_dir():
        return {}, (Problem("missing", str(folder), "the subtitles of all videos (subtitle.zip, unpacked)"),), ()
    said: dict[str, tuple[Subtitle, ...]] = {}
    problems = []
    for path in sorted(folder.glob("*.srt")):
        try:
            said[path.stem] = read_srt(path)
        except MediaError as error:
            problems.append(Problem("unreadable", str(path), str(error)))
    return said, tuple(problems), ()
