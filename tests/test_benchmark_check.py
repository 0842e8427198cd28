"""``prunevid eval check``: every quirk that folders of benchmarks have, and what is said of each."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from prunevid_qwen.cli import main
from prunevid_qwen.errors import ConfigError, SetupError
from prunevid_qwen.evaluation.datasets import Report, check, names, read_dataset
from prunevid_qwen.evaluation.datasets.lengths import promised_bytes
from tests import benchmark_folders as folders
from tests.benchmark_folders import FAST_VP9, RATE, SIZE, Clips, mvbench_record, put_frames, write_json
from tests.media import cut, encode


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Clips:
    return Clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, clips: Clips) -> dict[str, Path]:
    return folders.write_all(tmp_path_factory.mktemp("benchmarks"), clips)


@pytest.fixture
def mvbench(whole: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole["mvbench"], tmp_path / "MVBench"))


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))


def look(root: Path, decode: bool = False, name: str = "mvbench") -> Report:
    return check(read_dataset(name, root), decode)


def asking(root: Path, task: str, records: list[dict[str, Any]]) -> Path:
    """A folder with that task alone."""
    write_json(root / "json" / f"{task}.json", records)
    (root / "video").mkdir(exist_ok=True)
    return root


def of_media(report: Report) -> list[tuple[str, str]]:
    """Kind and name of what is wrong, task files left out."""
    return [(p.kind, Path(p.path).name) for p in report.problems if not p.path.endswith(".json")]


@pytest.mark.parametrize("name", names())
def test_a_whole_folder_is_complete(name: str, whole: dict[str, Path], capsys: Any) -> None:
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


def test_the_wrong_folder_is_said_to_be_wrong(whole: dict[str, Path], tmp_path: Path, capsys: Any) -> None:
    shutil.copytree(whole["mvbench"] / "json", tmp_path / "json")
    assert "nothing was found: is" in " ".join(look(tmp_path).next_steps)
    outer = tmp_path / "data"
    shutil.copytree(whole["mvbench"], outer / "MVBench")
    assert main(["eval", "check", "mvbench", str(outer)]) == 2
    said = capsys.readouterr().err
    assert f"Did you mean {outer / 'MVBench'}?" in said and "json/<task>.json" in said
    assert main(["eval", "check", "mvbench", str(tmp_path / "nowhere")]) == 2
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


def _half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("suffix", "break_it", "said"),
    [
        (".mp4", lambda path: path.write_bytes(b""), "empty (0 bytes)"),
        (".mp4", lambda path: path.write_text("<html>404 Not Found"), "text file"),
        (".mp4", _half, "truncated"),
        (".avi", lambda path: path.write_bytes(path.read_bytes()[:100]), "cannot be read as a video"),
        (".mp4", lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
    ],
    ids=["zero_bytes", "text", "mp4_without_moov", "avi_cut", "lfs_pointer"],
)
def test_broken_files_are_found_without_decoding(
    suffix: str, break_it: Callable[[Path], object], said: str, tmp_path: Path, clips: Clips
) -> None:
    break_it(clips.put(tmp_path / "video" / "vlnqa" / f"a{suffix}"))
    report = look(asking(tmp_path, "egocentric_navigation", [mvbench_record("x", 1, f"a{suffix}")]))
    assert of_media(report) == [("unreadable", f"a{suffix}")] and said in report.problems[-1].why
    assert report.askable == 0 and any(step.startswith("download ") for step in report.next_steps)


@pytest.mark.parametrize(
    ("name", "codec", "options", "share"),
    [
        ("index_first.mp4", "libx264", {"movflags": "faststart"}, 0.7),
        ("a.webm", "libvpx-vp9", {}, 0.66),
        ("a.mkv", "libx264", {}, 0.9),
        ("a.avi", "mpeg4", {}, 0.9),
    ],
)
def test_a_file_cut_short_that_opens_is_found_by_its_length(
    name: str, codec: str, options: dict[str, str], share: float, tmp_path: Path
) -> None:
    how = FAST_VP9 if codec == "libvpx-vp9" else {}
    made = encode(tmp_path / name, codec, frames=24, rate=12, size=SIZE, options=how, container=options)
    assert promised_bytes(made) == made.stat().st_size
    place = tmp_path / "video" / "vlnqa"
    place.mkdir(parents=True)
    cut(made, place / name, share)
    report = look(asking(tmp_path, "egocentric_navigation", [mvbench_record("x", 1, name)]))
    assert of_media(report) == [("damaged", name)] and "cut short" in report.problems[-1].why
    assert report.askable == 1  # what is left can be asked about, and is said to be damaged


def test_a_stream_that_promises_no_length_is_no_shorter_than_it(tmp_path: Path) -> None:
    path = tmp_path / "a.webm"
    for content, promised in (
        (b"\x1a\x45\xdf\xa3\x80\x18\x53\x80\x67\x01" + b"\xff" * 7, None),  # what recorders write
        (b"\x1a\x45\xdf\xa3\x81\x00\x18\x53\x80\x67\x40\x03", 15),
        (b"\x1a\x45\xdf\xa3\x80nope", None),
        (b"\x1a\x45\xdf\xa3\x00", None),
        (b"RIFF\xff\xff\xff\xffAVI ", None),
        (b"\0\0\0\x08ftyp\0\0\0\0mdat", 8),  # the last box goes to the end
        (b"\0\0\0\x08ftyp\0\0\0\x01mdat" + (99).to_bytes(8, "big"), 107),
        (b"\0\0\0\x08ftyp\0\0\0\x04mdat", 8),  # no box is that short
        (b"\0\0\0\x08ftyp\0\0\x10\0\1\2\3\4", 8),  # what follows is no box
        (b"\x1a\x45\xdf\xa3" + bytes(9) + b"\x18\x53\x80\x67\x81", None),
        (b"GIF89a", None),
    ):
        path.write_bytes(content)
        assert promised_bytes(path) == promised, content


def test_damage_inside_is_found_by_decoding(tmp_path: Path, clips: Clips, capsys: Any) -> None:
    place = tmp_path / "video" / "vlnqa"
    clips.put(place / "good.mp4")
    noise = bytearray(clips.put(place / "noise.mp4").read_bytes())
    begin, end = noise.index(b"mdat") + 4, noise.rindex(b"moov") - 4
    noise[begin:end] = random.Random(0).randbytes(end - begin)
    (place / "noise.mp4").write_bytes(bytes(noise))
    streamed = bytearray(
        encode(tmp_path / "s.webm", "libvpx-vp9", frames=24, rate=12, size=SIZE, options=FAST_VP9).read_bytes()
    )
    at = streamed.index(b"\x18\x53\x80\x67") + 4
    streamed[at : at + 8] = b"\x01" + b"\xff" * 7  # no length, as a recorder that could not seek back
    (place / "cut.webm").write_bytes(bytes(streamed[: len(streamed) * 2 // 3]))
    videos = ("good.mp4", "cut.webm", "noise.mp4")
    asking(tmp_path, "egocentric_navigation", [mvbench_record("x", 1, video) for video in videos])
    assert of_media(look(tmp_path)) == []
    report = look(tmp_path, decode=True)
    assert of_media(report) == [("damaged", "cut.webm"), ("unreadable", "noise.mp4")] and report.askable == 2
    assert main(["eval", "check", "mvbench", str(tmp_path), "--decode"]) == 4
    assert "unreadable: " in capsys.readouterr().out


def test_odd_videos_that_are_fine(tmp_path: Path, clips: Clips) -> None:
    place = tmp_path / "video" / "vlnqa" / 'it\'s "left" 左'
    place.mkdir(parents=True)
    encode(place / "one frame.mp4", frames=1, rate=RATE, size=SIZE)
    encode(place / "varying.mkv", frames=8, size=SIZE, milliseconds=(0, 40, 80, 500, 520, 1500, 1600, 3000))
    encode(place / "moving.gif", "gif", frames=6, rate=10, size=SIZE, pixel_format="rgb8")
    encode(place / "av1.mp4", "libsvtav1", frames=4, rate=RATE, size=(64, 64), options={"preset": "12"})
    part = encode(place / "joined.ts", frames=4, rate=RATE, size=SIZE).read_bytes()
    (place / "joined.ts").write_bytes(part * 2)  # a warning, and no damage
    letters = [Image.new("P", (64, 64), color) for color in (0, 1)]
    letters[0].save(place / "letters.gif", save_all=True, append_images=letters[1:], transparency=0, duration=100)
    clips.put(place / "matroska.mkv")
    clips.put(place / "web.webm")
    records = [mvbench_record("x", 1, f"{place.name}/{path.name}") for path in sorted(place.iterdir())]
    report = look(asking(tmp_path, "egocentric_navigation", records), decode=True)
    assert of_media(report) == [] and report.askable == 8


def test_frame_folders(tmp_path: Path) -> None:
    place = tmp_path / "video" / "tvqa" / "frames_fps3_hq"
    put_frames(place / "one", 1)
    put_frames(place / "upper", 3, suffix=".JPG")
    (put_frames(place / "thumbs", 11) / "Thumbs.db").write_bytes(b"x")
    put_frames(place / "gaps", 12)
    for number in (4, 7):
        (place / "gaps" / f"{number:05d}.jpg").unlink()
    put_frames(place / "late", 3, first=3)
    (place / "empty").mkdir()
    (place / "broken").mkdir()
    (place / "broken" / "00001.jpg").write_bytes(b"no jpg")
    put_frames(place / "cut", 3)
    _half(place / "cut" / "00003.jpg")
    (place / "a_file").write_bytes(b"")
    everything = ("one", "upper", "thumbs", "gaps", "late", "empty", "broken", "cut", "gone", "a_file")
    bound = {"start": 0.0, "end": 1.0}
    asking(tmp_path, "episodic_reasoning", [mvbench_record("x", 1, name, **bound) for name in everything])
    report = look(tmp_path)
    expected = [("damaged", "gaps"), ("damaged", "late"), ("unreadable", "empty"), ("unreadable", "broken")]
    expected += [("missing", "gone"), ("unreadable", "a_file")]
    assert of_media(report) == expected
    why = {Path(p.path).name: p.why for p in report.problems}
    assert why["gaps"].startswith("2 of 12 frames are not there (number 4, 7)") and why["gone"] == "a folder of frames"
    assert why["late"].startswith("2 of 5 frames are not there (number 1, 2)")
    assert ("unreadable", "cut") in of_media(look(tmp_path, decode=True))
    assert [r.media[0].kind for r in report.dataset.records] == ["frames"] * 9 + ["video"]


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
        ({"video": None}, r"\(moving_count/1\) has no 'video' \(it has"),
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
    _half(path)
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


@pytest.mark.parametrize("broken", ["text", "cut"])
def test_broken_images(broken: str, tmp_path: Path) -> None:
    root = folders.vstar(tmp_path)
    path = root / "direct_attributes" / "sa_2.jpg"
    if broken == "text":
        path.write_text("404")
    else:
        Image.effect_noise((200, 200), 90).save(path)
        _half(path)
    (root / "relative_position" / "sa_3.png").unlink()
    found = [("unreadable", "sa_2.jpg")] if broken == "text" else []
    assert of_media(look(root, name="vstar")) == [*found, ("missing", "sa_3.png")]
    assert of_media(look(root, True, "vstar")) == [("unreadable", "sa_2.jpg"), ("missing", "sa_3.png")]


def test_vstar_with_its_images_in_a_table_is_told_which_one_to_download(tmp_path: Path) -> None:
    folders.write_parquet(tmp_path / "data" / "test-0.parquet", [{"text": "x"}])
    with pytest.raises(ConfigError, match="download craigwu/vstar_bench"):
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
