"""Every benchmark's layout becomes the same records: ids, files, bounds, options, answers, groups."""

from __future__ import annotations

import json
import pickle
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from prunevid_qwen.errors import ConfigError, MediaError
from prunevid_qwen.evaluation.datasets import Media, Record, benchmark, check, names, read_dataset
from prunevid_qwen.evaluation.datasets.annotations import letter_of, without_letters
from prunevid_qwen.evaluation.tasks.benchmark_tables import write_submission
from tests import benchmark_folders as folders
from tests.benchmark_folders import HARD_OPTIONS, HARD_QUESTION, Clips

TASKS = tuple(benchmark("mvbench").each)


pytestmark = pytest.mark.usefixtures("empty_cache")


def by_id(records: tuple[Record, ...]) -> dict[str, Record]:
    return {record.id: record for record in records}


@pytest.mark.parametrize("name", names())
def test_what_holds_for_every_record(name: str, whole: dict[str, Path]) -> None:
    assert name in whole, folders.missing(name)
    data = read_dataset(name, whole[name])
    assert data.records, f"{name}: give its function in tests/benchmark_folders.py at least one question"
    assert len(by_id(data.records)) == len(data.records)
    for record in data.records:
        (media,), of = record.media, f"{name}, {record.id}: "
        assert Path(media.path).exists(), f"{of}write {media.path} in tests/benchmark_folders.py, or mend media: path"
        image = benchmark(name).media.kind == "image"
        assert (media.kind == "image") == image, f"{of}say kind: image under media of its YAML file where they are"
        assert (media.kind == "frames") == Path(media.path).is_dir() == (media.fps is not None)
        assert record.question, f"{of}name the column of the question in its YAML file"
        assert record.answer and record.answer in record.letters, f"{of}its first part needs answer: in its YAML file"
        assert all(isinstance(option, str) for option in record.options) and isinstance(record.options, tuple)
        assert record.groups.get(data.by), f"{of}add {data.by}, which is its by:, to groups of its YAML file"
        assert record.groups.get("video"), f"{of}add video, whose questions share one, to groups of its YAML file"
        assert pickle.loads(pickle.dumps(record)) == record
    assert read_dataset(name, whole[name]).records == data.records
    assert all(path.is_file() for path in data.annotations)


def test_mvbench_main_branch(whole: dict[str, Path]) -> None:
    root = whole["mvbench"]
    data = read_dataset("MVBench", root)
    assert Counter(record.groups["task"] for record in data.records) == dict.fromkeys(TASKS, 2) and len(TASKS) == 20
    found = by_id(data.records)
    video = root / "video"
    assert found["action_sequence/0"].media == (Media("video", str(video / "star/Charades_v1_480/Z1.mp4"), 0.5, 1.5),)
    frames = video / "tvqa/frames_fps3_hq/castle_s01e01_seg02_clip_00"
    assert found["episodic_reasoning/0"].media == (Media("frames", str(frames), 0.5, 1.5, fps=3.0),)
    assert found["fine_grained_pose/0"].media[0].path.endswith("nturgbd/S001C003P007R001A004_rgb.avi")
    assert found["action_antonym/0"].media[0].path.endswith("ssv2_video/1.webm")
    assert found["egocentric_navigation/1"].media == (Media("video", str(video / "vlnqa/left/2_frame7.mp4")),)
    hard = found["moving_count/1"]
    assert (hard.question, hard.options, hard.answer) == (HARD_QUESTION, HARD_OPTIONS, "C")
    assert found["moving_count/0"].answer == "B" and found["moving_count/0"].letters == "AB"


def test_mvbench_replaced_clips_are_found_in_the_second_root(whole: dict[str, Path]) -> None:
    found = by_id(read_dataset("mvbench", whole["mvbench"]).records)
    second = whole["mvbench"] / "video" / "data0613"
    assert found["action_sequence/1"].media[0].path == str(second / "star/Charades_v1_480/Z2.mp4")
    assert found["moving_count/1"].media[0].path == str(second / "clevrer/video_validation/moving_count_2.mp4")
    assert str(second) not in found["moving_count/0"].media[0].path


@pytest.mark.parametrize("video", ["video", "", "mvbench_video"])
def test_mvbench_video_branch_bounds_are_not_applied_twice(video: str, tmp_path: Path, clips: Clips) -> None:
    data = read_dataset("mvbench", folders.mvbench(tmp_path / "b", clips, "video", video))
    found = by_id(data.records)
    clip = tmp_path / "b" / video / "star/Charades_segment/Z1_0.5_1.5.mp4"
    assert found["action_sequence/0"].media == (Media("video", str(clip)),)
    assert all(record.media[0].start is None and record.media[0].kind == "video" for record in data.records)
    assert check(data).complete


def test_mvbench_questions_of_main_with_clips_of_video(tmp_path: Path, clips: Clips) -> None:
    folders.mvbench(tmp_path / "main", clips)
    folders.mvbench(tmp_path / "cut", clips, "video")
    shutil.rmtree(tmp_path / "cut" / "json")
    shutil.copytree(tmp_path / "main" / "json", tmp_path / "cut" / "json")
    data = read_dataset("mvbench", tmp_path / "cut")
    assert check(data).complete and all(record.media[0].start is None for record in data.records)
    missing = tmp_path / "cut" / "video" / "star" / "Charades_segment" / "Z1_0.5_1.5.mp4"
    missing.unlink()
    (report,) = check(read_dataset("mvbench", tmp_path / "cut")).problems
    assert Path(report.path).parent == missing.parent and len(report.records) == 3


def test_videomme(whole: dict[str, Path]) -> None:
    data = read_dataset("Video-MME", whole["videomme"])
    places = [Path(record.media[0].path).name for record in data.records[::3]]
    assert places == ["-aBc_1.mp4", "_x-Y2.mkv", "Q3dEf-.MP4"]
    first = data.records[0]
    assert (first.id, first.question, first.answer) == ("001-1", HARD_QUESTION, "B")
    assert first.options == ("A man.", "B. B. King", "3", "None of the above.")
    assert first.groups == {
        "duration": "short",
        "domain": "Multilingual",
        "sub_category": "Multilingual",
        "task_type": "OCR Problems",
        "video": "-aBc_1",
    }
    assert not first.media[0].subtitles


def test_videomme_chunks_that_were_unpacked_one_by_one(tmp_path: Path, clips: Clips) -> None:
    root = folders.videomme(tmp_path / "v", clips)
    for number, path in enumerate(sorted((root / "data").iterdir()), 1):
        target = root / f"videos_chunked_{number:02d}" / ("data" if number == 1 else "") / path.name
        target.parent.mkdir(parents=True)
        path.rename(target)
    (root / "data").rmdir()
    assert check(read_dataset("videomme", root)).complete


def test_egoschema_subset_and_full(whole: dict[str, Path], tmp_path: Path) -> None:
    subset = read_dataset("egoschema", whole["egoschema"])
    assert [(record.id[:8], record.answer) for record in subset.records] == [("00000000", "A"), ("00000002", "E")]
    full = read_dataset("egoschema", whole["egoschema"], "full")
    assert len(full.records) == 3 and {record.answer for record in full.records} == {None}
    assert full.records[0].options == tuple(f"C does {k}" for k in range(5)) and full.published == 5031
    assert {record.groups["part"] for record in full.records} == {"full"}
    mirror = folders.egoschema_mirror(tmp_path / "mirror")
    for part, official in (("subset", subset), ("full", full)):
        mirrored = read_dataset("egoschema", mirror, part).records
        assert [(r.id, r.question, r.options, r.answer, r.groups) for r in mirrored] == [
            (r.id, r.question, r.options, r.answer, r.groups) for r in official.records
        ]


def test_egoschema_submission(whole: dict[str, Path], tmp_path: Path) -> None:
    records = read_dataset("egoschema", whole["egoschema"], "full").records
    one, two, three = (record.id for record in records)

    def write(name: str, answers: dict[str, str], partial: bool = False) -> str:
        lines = [{"id": each, "config": "paper", "raw": raw, "answer": None, "options": ["v", "w", "x", "y", "z"],
                  "groups": {}, "error": None} for each, raw in answers.items()]  # fmt: skip
        write_submission(tmp_path / "out" / name, records, lines, "paper", "", partial)
        return (tmp_path / "out" / name).read_text()

    answers = {three: "E", one: "(A)", two: "none of them"}
    assert json.loads(write("answers.json", answers)) == {one: 0, two: -1, three: 4}
    assert write("answers.csv", answers) == f"q_uid,answer\n{one},0\n{two},-1\n{three},4\n"
    with pytest.raises(ConfigError, match=r"1 of 3 questions have no answer, such as 00000001.*--partial"):
        write("answers.csv", {one: "A", three: "B"})
    assert write("answers.csv", {three: "B"}, partial=True) == f"q_uid,answer\n{three},1\n"
    with pytest.raises(ConfigError, match=r"\.json .* or a \.csv"):
        write("answers.txt", answers)


def test_egoschema_answers_to_other_questions_are_refused(tmp_path: Path, clips: Clips) -> None:
    root = folders.egoschema(tmp_path / "e", clips)
    folders.write_json(root / "subset_answers.json", {"nobody": 1})
    with pytest.raises(ConfigError, match="does not ask, such as nobody"):
        read_dataset("egoschema", root)


def test_longvideobench(whole: dict[str, Path], tmp_path: Path) -> None:
    data = read_dataset("longvideobench", whole["longvideobench"])
    one, two = data.records
    assert (one.id, one.options, one.answer) == ("one_0", ("red", "blue", "N/A", "grey"), "D")
    assert (two.answer, two.groups["duration_group"], two.groups["question_category"]) == ("E", "3600", "S2E")
    hub = []
    for row in folders.longvideobench_rows():
        options = row.pop("candidates")
        hub.append(row | {f"option{k}": options[k] if k < len(options) else "N/A" for k in range(5)})
    folders.write_parquet(tmp_path / "validation-00000-of-00001.parquet", hub)
    mirrored = read_dataset("longvideobench", tmp_path).records
    assert [(r.id, r.options, r.answer, r.groups) for r in mirrored] == [
        (r.id, r.options, r.answer, r.groups) for r in data.records
    ]


def test_longvideobench_test_has_no_answers(tmp_path: Path) -> None:
    rows = [{k: v for k, v in row.items() if k != "correct_choice"} for row in folders.longvideobench_rows()]
    folders.write_json(tmp_path / "lvb_test_wo_gt.json", rows)
    assert [record.answer for record in read_dataset("longvideobench", tmp_path, "test").records] == [None, None]


def test_mlvu_videos_of_one_name_are_told_apart(whole: dict[str, Path]) -> None:
    data = read_dataset("mlvu", whole["mlvu"])
    assert len(data.records) == 7 and len({record.groups["video"] for record in data.records}) == 7
    assert len({record.media[0].path for record in data.records}) == 7
    found = by_id(data.records)
    assert found["count/0"].answer == "A" and found["plotQA/0"].answer == "C" and "summary/0" not in found


@pytest.mark.parametrize("layout", ["data", "without_numbers"])
def test_mlvu_other_layouts(layout: str, tmp_path: Path, clips: Clips) -> None:
    root = folders.mlvu(tmp_path / "m", clips)
    if layout == "data":
        (root / "json").rename(root / "data")
    for path in list((root / "video").iterdir()):
        if layout == "without_numbers":
            path.rename(path.with_name(path.name.partition("_")[2]))
    assert check(read_dataset("mlvu", root)).complete


def test_vstar_text_is_taken_apart(whole: dict[str, Path]) -> None:
    data = read_dataset("V*", whole["vstar"])
    first, last = data.records[0], data.records[-1]
    assert (first.id, first.question, first.answer) == ("direct_attributes/0", "What is {it}?", "B")
    assert first.options == ("A a", "A b", "A c", "A d") and last.options == ("A a", "A b")
    assert first.media == (Media("image", str(whole["vstar"] / "direct_attributes/sa_1.jpg")),)
    assert Counter(r.groups["category"] for r in data.records) == {"direct_attributes": 2, "relative_position": 2}


@pytest.mark.parametrize(
    ("given", "texts"),
    [
        (("A. one", "B. two"), ("one", "two")),
        (("(A) one", "(B)two"), ("one", "two")),
        (("A. Lincoln", "G. Washington"), ("A. Lincoln", "G. Washington")),
        (("A man", "B flat"), ("A man", "B flat")),
        (("one", "say (B)"), ("one", "say (B)")),
    ],
)
def test_letters_are_taken_off_only_where_all_options_have_theirs(
    given: tuple[str, ...], texts: tuple[str, ...]
) -> None:
    assert without_letters(given) == texts


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("index", ["1", 1], [2, -1, "2", "one", 0.5, None, True]),
        ("letter", [" (B).", "B", "(B) b", "B. b", "B) b "], ["C", "", "AB", "b", "B. a", "C. c"]),
        ("text", ["b", " b "], ["c", "", "B"]),
    ],
)
def test_answers_of_every_kind(kind: str, good: list[object], bad: list[object]) -> None:
    assert {letter_of(answer, kind, ("a", "b"), "x") for answer in good} == {"B"}
    for answer in bad:
        with pytest.raises(ConfigError) as error:
            letter_of(answer, kind, ("a", "b"), "row x")
        assert str(error.value).startswith("row x") and repr(answer) in str(error.value)
    with pytest.raises(ValueError, match=r"record r: the answer is .*letters AB"):
        Record("r", (), "q", ("a", "b"), "C")


def test_questions_in_the_cache_of_the_hub(whole: dict[str, Path], tmp_path: Path, empty_cache: Path) -> None:
    videos = tmp_path / "videomme"  # as lmms-eval leaves it
    shutil.copytree(whole["videomme"] / "data", videos / "data")
    with pytest.raises(MediaError, match=r"no questions of Video-MME in .*nor in the cache"):
        read_dataset("videomme", videos)
    old = folders.snapshot(empty_cache, "lmms-lab/Video-MME", "convert/parquet", "0ld" * 4)
    folders.write_parquet(old / "videomme" / "test-00000-of-00001.parquet", folders.videomme_rows()[:3])
    kept = folders.snapshot(empty_cache, "lmms-lab/Video-MME")
    shutil.copytree(whole["videomme"] / "videomme", kept / "videomme")
    data = read_dataset("videomme", videos)
    assert len(data.records) == 9 and data.annotations[0].is_relative_to(kept) and check(data).complete
    assert read_dataset("videomme", whole["videomme"]).annotations[0].is_relative_to(whole["videomme"])


def test_questions_in_the_cache_of_datasets(tmp_path: Path, whole: dict[str, Path], empty_cache: Path) -> None:
    rows = folders.videomme_rows()
    base = empty_cache / "datasets" / "lmms-lab___video-mme" / "videomme" / "0.0.0" / "abc"
    folders.write_arrow(base / "video-mme-test-00000-of-00002.arrow", rows[:4])
    folders.write_arrow(base / "video-mme-test-00001-of-00002.arrow", rows[4:])
    shutil.copytree(whole["videomme"] / "data", tmp_path / "v" / "data")
    data = read_dataset("videomme", tmp_path / "v")
    plain = read_dataset("videomme", whole["videomme"])
    assert [(r.id, r.options, r.answer) for r in data.records] == [(r.id, r.options, r.answer) for r in plain.records]
    for task in TASKS:
        records: Any = json.loads((whole["mvbench"] / "json" / f"{task}.json").read_text())
        where = empty_cache / "datasets" / "OpenGVLab___mv_bench" / task / "0.0.0" / "abc"
        folders.write_arrow(where / "mv_bench-train.arrow", records)
    shutil.copytree(whole["mvbench"] / "video", tmp_path / "m" / "video")
    found = read_dataset("mvbench", tmp_path / "m")
    assert len(found.records) == 40 and check(found).complete


def test_images_in_the_cache_of_the_hub(whole: dict[str, Path], tmp_path: Path, empty_cache: Path) -> None:
    kept = folders.snapshot(empty_cache, "craigwu/vstar_bench")
    shutil.copytree(whole["vstar"], kept, dirs_exist_ok=True)
    (tmp_path / "empty").mkdir()
    data = read_dataset("vstar", tmp_path / "empty")
    assert len(data.records) == 4 and check(data).complete  # the images lie beside the questions
