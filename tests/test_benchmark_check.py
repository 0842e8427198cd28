"""``prunevid eval check``: every quirk that folders of benchmarks have, and what is said of each."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from prunevid_qwen.cli import main
from prunevid_qwen.errors import ConfigError, MediaError, SetupError
from prunevid_qwen.evaluation.datasets import names, read_dataset
from tests import benchmark_folders as folders
from tests.benchmark_fixtures import asking, look, of_media
from tests.benchmark_folders import Clips, mvbench_record

pytestmark = pytest.mark.usefixtures("empty_cache")


@pytest.fixture
def mvbench(whole: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole["mvbench"], tmp_path / "MVBench"))


@pytest.mark.parametrize("name", names())
def test_a_whole_folder_is_complete(name: str, whole: dict[str, Path], capsys: Any) -> None:
    assert name in whole, folders.missing(name)
    for words in ([], ["--decode"]):
        assert main(["eval", "check", name, str(whole[name]), *words]) == 0
        said = capsys.readouterr()
        assert "complete: nothing is missing" in said.out and "checking" in said.err
        assert "the published set has" in said.out  # a miniature never passes for the whole


def test_json_is_one_object(whole: dict[str, Path], capsys: Any) -> None:
    assert main(["eval", "check", "mvbench", str(whole["mvbench"]), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["questions"], found["askable"], found["complete"], found["problems"]) == (40, 40, True, [])
    assert found["by_task"]["fine_grained_pose"] == {"askable": 2, "questions": 2} and found["media"] == 36


def test_missing_ntu_videos_are_one_line_with_the_way_to_them(mvbench: Path, capsys: Any) -> None:
    shutil.rmtree(mvbench / "video" / "nturgbd")
    assert main(["eval", "check", "mvbench", str(mvbench)]) == 4
    said = capsys.readouterr().out
    (line,) = [line for line in said.splitlines() if line.startswith("missing: ")]
    assert line == (
        f"missing: {mvbench / 'video' / 'nturgbd'}: the whole folder, 2 of whose files are asked about "
        "(for fine_grained_pose/0 and 1 more)"
    )
    assert "38 of 40 questions can be asked (fine_grained_pose 0 of 2)" in said
    assert "withdrawn" in said and "19 tasks" in said and "data0613" not in said and "or go on without them" in said


def test_a_missing_task_file_is_named_and_the_others_are_read(mvbench: Path) -> None:
    (mvbench / "json" / "moving_count.json").unlink()
    report = look(mvbench)
    (problem,) = report.problems
    assert problem.kind == "missing" and "200 questions of moving_count" in problem.why
    assert len(report.dataset.records) == report.askable == 38


def test_missing_replaced_clips_point_to_their_archive(mvbench: Path) -> None:
    shutil.rmtree(mvbench / "video" / "data0613")
    (mvbench / "video" / "data0613.zip").write_bytes(b"PK")
    report = look(mvbench)
    found = [("missing", "Z2.mp4"), ("missing", "moving_count_2.mp4")]
    assert of_media(report) == found and report.askable == 36
    assert report.next_steps[0].startswith(f"unpack {mvbench / 'video' / 'data0613.zip'}")
    assert sum("data0613.zip: unpack" in step for step in report.next_steps) == 1
    assert not any(step.startswith("put ") for step in report.next_steps)  # better is known


def test_the_wrong_folder_is_said_to_be_wrong(whole: dict[str, Path], tmp_path: Path, capsys: Any) -> None:
    shutil.copytree(whole["mvbench"] / "json", tmp_path / "json")
    assert "nothing was found: is" in " ".join(look(tmp_path).next_steps)
    outer = tmp_path / "data"
    shutil.copytree(whole["mvbench"], outer / "MVBench")
    assert main(["eval", "check", "mvbench", str(outer)]) == 4
    said = capsys.readouterr().err
    assert f"Did you mean {outer / 'MVBench'}?" in said and "json/<task>.json" in said
    assert main(["eval", "check", "mvbench", str(tmp_path / "nowhere")]) == 4
    assert "there is none" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["mvbnch"], "no data set 'mvbnch': did you mean mvbench?"),
        (["video_mmee"], "did you mean videomme?"),
        (["imagenet"], f"There are {', '.join(names())}"),
        (["egoschema", "--part", "half"], "egoschema has the parts subset, full; got 'half'"),
    ],
)
def test_names_and_parts(words: list[str], said: str, tmp_path: Path, capsys: Any) -> None:
    name, *more = words
    assert main(["eval", "check", name, str(tmp_path), *more]) == 2
    assert said in capsys.readouterr().err


def test_one_in_twenty_broken_or_missing_is_named_one_by_one(mvbench: Path, capsys: Any) -> None:
    for number, task in ((1, "state_change"), (2, "action_count")):
        path = mvbench / "video" / "perception" / "videos" / f"{task}_{number}.mp4"
        path.unlink() if number == 1 else path.write_bytes(b"")
    assert main(["eval", "check", "mvbench", str(mvbench), "--json"]) == 4
    found = json.loads(capsys.readouterr().out)
    assert [(p["kind"], p["questions"]) for p in found["problems"]] == [
        ("unreadable", ["action_count/1"]),
        ("missing", ["state_change/0"]),
    ]
    assert found["askable"] == 38 and found["counts"] == {"missing": 1, "unreadable": 1}
    assert [step.split()[0] for step in found["next_steps"]] == ["put", "download", "or"]


@pytest.mark.parametrize(
    ("bounds", "start", "end", "noted"),
    [
        ({"start": 0.5, "end": 99.0}, 0.5, 99.0, False),
        ({"start": 1.0, "end": 1.0}, 1.0, 1.0, True),
        ({"start": 1.5, "end": 0.5}, 1.5, 0.5, True),
        ({"end": 1.0}, None, 1.0, False),
        ({"start": None, "end": None}, None, None, False),
    ],
    ids=["end_after_the_video", "empty", "swapped", "no_start", "null"],
)
def test_bounds_are_passed_on_as_annotated(
    bounds: dict[str, Any], start: float | None, end: float | None, noted: bool, tmp_path: Path, clips: Clips
) -> None:
    clips.put(tmp_path / "video" / "sta" / "sta_video" / "a.mp4")
    report = look(asking(tmp_path, "action_localization", [mvbench_record("x", 1, "a.mp4", **bounds)]))
    (media,) = report.dataset.records[0].media
    assert (media.start, media.end) == (start, end) and of_media(report) == []
    assert any("end where they begin" in note for note in report.notes) == noted


def test_bounds_of_a_task_without_bounds_are_ignored(tmp_path: Path) -> None:
    asking(tmp_path, "moving_count", [mvbench_record("x", 1, "a.mp4", start=1.0, end=2.0)])
    assert read_dataset("mvbench", tmp_path).records[0].media[0].start is None


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"answer": "maybe"}, r"\(moving_count/1\): the answer is 'maybe', expected .* \['yes', 'no'\]"),
        ({"candidates": []}, r"\(moving_count/1\): candidates is \[\], expected a list"),
        ({"candidates": "yes"}, r"\(moving_count/1\): candidates is 'yes'"),
        ({"video": None}, r"\(moving_count/1\): video is empty"),
        ({"candidates": None}, r"\(moving_count/1\): candidates is empty"),
        ({"video": ["a.mp4"]}, r"\(moving_count/1\): video is \['a.mp4'\], expected one value"),
    ],
)
def test_records_that_cannot_be_right_are_refused_by_id(changed: dict[str, Any], said: str, tmp_path: Path) -> None:
    good = mvbench_record("x", 1, "a.mp4")
    asking(tmp_path, "moving_count", [good, good | changed])
    with pytest.raises(ConfigError, match=said):
        read_dataset("mvbench", tmp_path)


def test_equal_options_give_the_first_letter_and_a_note(tmp_path: Path) -> None:
    record = mvbench_record("x", 1, "a.mp4", start=1.0) | {"candidates": ["a", "b ", "b", "b"], "answer": "b"}
    asking(tmp_path, "moving_count", [record])
    report = look(tmp_path)
    assert report.dataset.records[0].answer == "C" and any("two options of the same text" in n for n in report.notes)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[{"video": "a.mp4"', "is not JSON .*cut short"),
        ('{"a": 1}', "holds dict, expected a list of records"),
        ("[1]", "record 0 is int"),
        ("version https://git-lfs.github.com/spec/v1\noid", "Git LFS pointer.*git lfs pull"),
    ],
)
def test_broken_annotation_files_say_what_to_do(text: str, said: str, mvbench: Path) -> None:
    (mvbench / "json" / "moving_count.json").write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_dataset("mvbench", mvbench)


def test_a_broken_parquet_file_and_a_missing_library(tmp_path: Path, clips: Clips, monkeypatch: Any) -> None:
    root = folders.videomme(tmp_path / "v", clips)
    (path,) = (root / "videomme").iterdir()
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ConfigError, match=r"cannot be read .*Download it again"):
        read_dataset("videomme", root)
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(SetupError, match=r"pip install 'prunevid_qwen\[eval\]'"):
        read_dataset("videomme", root)


def test_ids_that_come_twice_are_refused(tmp_path: Path) -> None:
    rows = folders.videomme_rows()
    folders.write_parquet(tmp_path / "videomme" / "test-00000-of-00001.parquet", [*rows, rows[4]])
    with pytest.raises(ConfigError, match="questions 4 and 9 both have the id 002-2"):
        read_dataset("videomme", tmp_path)


def test_a_linked_video_folder_works(mvbench: Path, tmp_path: Path) -> None:
    shutil.move(mvbench / "video", tmp_path / "disk")
    os.symlink(tmp_path / "disk", mvbench / "video")
    report = look(mvbench)
    assert report.complete and str(mvbench / "video") in report.dataset.records[0].media[0].path


def test_vstar_with_its_images_in_a_table_is_told_which_one_to_download(tmp_path: Path) -> None:
    folders.write_parquet(tmp_path / "data" / "test-0.parquet", [{"text": "x"}])
    with pytest.raises(MediaError, match="download craigwu/vstar_bench"):
        read_dataset("vstar", tmp_path)


def test_a_text_without_options_is_no_question_of_vstar(tmp_path: Path) -> None:
    root = folders.vstar(tmp_path)
    line = json.loads((root / "test_questions.jsonl").read_text().splitlines()[0]) | {"text": "What?"}
    (root / "test_questions.jsonl").write_text(json.dumps(line))
    with pytest.raises(ConfigError, match=r"record 0 \(direct_attributes/0\): the text 'What\?' holds no options"):
        read_dataset("vstar", root)


def test_check_loads_no_torch(whole: dict[str, Path]) -> None:
    from tests.test_packaging import NO_NETWORK, python

    code = (
        "import sys\nfrom prunevid_qwen.cli import main\nassert main(['eval', 'check', 'videomme', sys.argv[1]]) == 0\n"
    )
    done = python(NO_NETWORK + code + "assert 'torch' not in sys.modules", str(whole["videomme"]))
    assert done.returncode == 0, done.stderr
