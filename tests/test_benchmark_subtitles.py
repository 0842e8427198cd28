"""Subtitles of Video-MME and LongVideoBench, with what real files have in them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prunevid_qwen.errors import ConfigError, MediaError
from prunevid_qwen.evaluation.datasets import Subtitle, check, read_dataset
from prunevid_qwen.evaluation.datasets.subtitles import read_longvideobench, read_srt
from tests import benchmark_folders as folders
from tests.benchmark_folders import SRT, Clips

CUES = (Subtitle(0.0, 0.8, "Hello & welcome"), Subtitle(0.5, 1.2, "over it"), Subtitle(1.3, 62.5, "5"))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_srt_with_bom_tags_crlf_overlaps_and_empty_cues(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "a.srt"
    path.write_bytes((SRT if encoding == "utf-8" else SRT.lstrip("\ufeff")).encode(encoding))
    assert read_srt(path) == CUES


def test_srt_numbers_never_become_text(tmp_path: Path) -> None:
    path = tmp_path / "a.srt"
    path.write_text(
        "1\n0:00:01,5 --> 0:00:02,000 X1:10\n2\n0:00:03,000 --> 0:00:04,000\nat 7\n10\n\n3\n0:00:05 --> 0:00:06\nend"
    )
    assert read_srt(path) == (Subtitle(3.0, 4.0, "at 7 10"), Subtitle(5.0, 6.0, "end"))


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"1\nno time\ntext\n"])
def test_srt_without_a_time_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.srt").write_bytes(content)
    with pytest.raises(MediaError, match="holds no subtitle"):
        read_srt(tmp_path / "a.srt")


def test_videomme_subtitles_are_read_on_request(tmp_path: Path, clips: Clips) -> None:
    root = folders.videomme(tmp_path / "v", clips)
    data = read_dataset("videomme", root, subtitles=True)
    assert [record.media[0].subtitles for record in data.records[::3]] == [CUES, CUES, ()]
    assert any("1 of 3 videos have no subtitles" in note for note in data.notes) and check(data).complete
    (root / "subtitle" / "_x-Y2.srt").write_bytes(b"")
    (problem,) = check(read_dataset("videomme", root, subtitles=True)).problems
    assert (problem.kind, Path(problem.path).name) == ("unreadable", "_x-Y2.srt")
    (root / "subtitle").rename(root / "elsewhere")
    (problem,) = check(read_dataset("videomme", root, subtitles=True)).problems
    assert problem.kind == "missing" and "subtitle.zip" in problem.why
    assert check(read_dataset("videomme", root)).complete  # nobody asked for them


def test_longvideobench_subtitles_move_to_the_clip_s_own_time(tmp_path: Path, clips: Clips) -> None:
    root = folders.longvideobench(tmp_path / "l", clips)
    one, two = (record.media[0].subtitles for record in read_dataset("longvideobench", root, subtitles=True).records)
    assert one == (Subtitle(0.0, 1.0, "in"),)  # what was said before and after the clip is gone
    assert two == (Subtitle(0.5, 1.0, "said"), Subtitle(1.0, 2.0, "to the end"))


def test_longvideobench_without_a_known_duration(tmp_path: Path) -> None:
    path = folders.write_json(
        tmp_path / "s.json", [{"timestamp": [1, None], "text": "a"}, {"timestamp": [2, 9], "text": ""}]
    )
    assert read_longvideobench(path) == (Subtitle(1.0, 1.0, "a"),)


@pytest.mark.parametrize(
    "content", ["", "{}x", json.dumps([{"line": "no times"}]), json.dumps([{"timestamp": [1], "text": ""}])]
)
def test_longvideobench_other_forms_are_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text(content)
    with pytest.raises(MediaError, match="no subtitles that LongVideoBench has"):
        read_longvideobench(tmp_path / "s.json")


def test_longvideobench_missing_and_broken_subtitles_are_named(tmp_path: Path, clips: Clips) -> None:
    root = folders.longvideobench(tmp_path / "l", clips)
    (root / "subtitles" / "one_en.json").unlink()
    (root / "subtitles" / "two_en.json").write_text("[")
    found = check(read_dataset("longvideobench", root, subtitles=True)).problems
    assert [(p.kind, Path(p.path).name, p.records) for p in found] == [
        ("missing", "one_en.json", ("one_0",)),
        ("unreadable", "two_en.json", ("two_1",)),
    ]
    (root / "subtitles" / "two_en.json").unlink()
    (root / "subtitles").rmdir()
    (problem,) = check(read_dataset("longvideobench", root, subtitles=True)).problems
    assert Path(problem.path).name == "subtitles" and problem.records == ("one_0", "two_1")


def test_a_data_set_without_subtitles_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="MLVU has no subtitles; longvideobench, videomme have some"):
        read_dataset("mlvu", tmp_path, subtitles=True)
