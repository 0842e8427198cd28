"""Benchmarks that are YAML alone, and what a wrong YAML file says."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet
import pytest

from prunevid_qwen.cli import main
from prunevid_qwen.errors import ConfigError, MediaError
from prunevid_qwen.evaluation.datasets import Media, benchmark, check, names, read_dataset
from prunevid_qwen.evaluation.datasets import dataset_layout as layout
from prunevid_qwen.evaluation.protocol.harness_scorers import columns_of
from prunevid_qwen.evaluation.protocol.prompts import prompt_of
from prunevid_qwen.evaluation.protocol.protocol import protocol_for
from tests import benchmark_folders as folders
from tests.benchmark_folders import Clips

TASKS = tuple(benchmark("mvbench").each)


pytestmark = pytest.mark.usefixtures("empty_cache")


def test_nextqa(whole: dict[str, Path], tmp_path: Path) -> None:
    data = read_dataset("NExT-QA", whole["nextqa"])
    first = data.records[0]
    assert (first.id, first.question, first.answer) == ("4010069381_0", "what of CH {x}", "A")
    assert first.options == ("hold the child's hand, tight", 'say "yes"', "turn\nround", "walk", "run")
    assert first.groups == {"kind": "causal", "type": "CH", "video": "4010069381"}
    assert [record.groups["kind"] for record in data.records] == ["causal", "temporal", "descriptive", "temporal"]
    videos = whole["nextqa"] / "NExTVideo"
    assert first.media == (Media("video", str(videos / "1164" / "4010069381.mp4")),)  # as VidOR has it
    assert data.records[2].media == (Media("video", str(videos / "2435100235.mp4")),)
    assert data.published == 8564 and len(read_dataset("nextqa", whole["nextqa"], "val").records) == 1
    assert len(data.annotations) == 2
    # the hub's table, and videos that all lie flat
    folders.write_parquet(tmp_path / "MC" / "test-00000-of-00001.parquet", folders.nextqa_rows())
    for record in data.records:
        target = tmp_path / "NExTVideo" / f"{record.groups['video']}.mp4"
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(record.media[0].path, target)
    mirrored = read_dataset("nextqa", tmp_path)
    assert [replace(r, media=()) for r in mirrored.records] == [replace(r, media=()) for r in data.records]
    assert check(mirrored).complete
    with pytest.raises(MediaError) as error:  # the hub has no table of part val
        read_dataset("nextqa", tmp_path, "val")
    assert "val.csv" in str(error.value)


def test_a_csv_that_was_cut_short_is_said_to_be(whole: dict[str, Path], tmp_path: Path) -> None:
    text = (whole["nextqa"] / "test.csv").read_text(encoding="utf-8")
    for wrong in (text[: text.rindex(",")], text.replace("TN", "TN,more")):
        (tmp_path / "test.csv").write_text(wrong, encoding="utf-8")
        with pytest.raises(ConfigError, match=r"test\.csv, record \d .*Download it again"):
            read_dataset("nextqa", tmp_path)


def test_tempcompass(whole: dict[str, Path], tmp_path: Path) -> None:
    data = read_dataset("tempcompass", whole["tempcompass"])
    first, second, third = data.records[:3]
    assert (first.id, first.question) == ("10_a/0", "What happens in the video (action)?")
    assert first.options == ("a a. {x}", "a b. {x}") and second.options == ("a a. {x}", "a b. {x}", "a c. {x}")
    assert (first.answer, second.answer, third.letters) == ("A", "B", "ABCD")
    assert Counter(record.groups["dim"] for record in data.records) == dict.fromkeys(
        ("action", "direction", "speed", "order", "attribute_change"), 1
    )
    # what the harness shows is the text of the table
    (path,) = data.annotations
    for record, row in zip(data.records, pyarrow.parquet.read_table(path).to_pylist(), strict=True):
        shown = prompt_of("lmms", "tempcompass").write(record)
        assert shown == row["question"] + "\nPlease directly give the best option:"
        assert record.answer and f"{record.answer}. {record.options['ABCD'.index(record.answer)]}" == row["answer"]


def test_a_wrong_file_of_a_benchmark_is_named_by_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(layout.__file__).with_name("nextqa.yaml")).read_text(encoding="utf-8")
    monkeypatch.setattr(layout, "_FILES", tmp_path)
    for number, (now, then, said) in enumerate((
        ("by: kind", "by: knd", ["'knd'", "kind, type, video"]),
        ("answer: {index: answer}", "answer: {number: answer}", ["letter, index, text", "number"]),
        ('video: "{video}"}', 'vido: "{video}"}', ["video"]),
        ("questions: 4996", "questions: many", ["a whole number", "many"]),
        ("repositories:", "repository:", ["repository", "repositories"]),
        ("path: [", "paths: [", ["paths", "path"]),
        ("strip: true", "strip: yes please", ["strip", "true or false"]),
        ('media: {path: ["{video}.mp4", "{vidor}.mp4"], ', "media: {", ["media", "path"]),
        ("[a0, a1, a2, a3, a4]", '"{options}"', ["options names a column", "write options, without braces"]),
        ("[a0, a1, a2, a3, a4]", '[a0, "{a1}"]', ["options names a column", "write a1, without braces"]),
        ("{index: answer}", '{index: "{answer}"}', ["answer names a column", "write answer, without braces"]),
    )):  # fmt: skip
        name = f"wrong{number}"
        assert now in text
        (tmp_path / f"{name}.yaml").write_text(text.replace(now, then), encoding="utf-8")
        with pytest.raises(ConfigError) as error:
            benchmark(name)
        (line,) = re.findall(rf"{name}\.yaml:(\d+): ", str(error.value))
        (at,) = [place for place, each in enumerate(text.splitlines(), 1) if now in each]
        assert int(line) == at, str(error.value)
        assert all(each in str(error.value) for each in said), str(error.value)


def test_a_column_that_no_row_has_is_named_with_those_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (Path(layout.__file__).with_name("nextqa.yaml")).read_text(encoding="utf-8")
    monkeypatch.setattr(layout, "_FILES", tmp_path)
    folders.write_parquet(tmp_path / "test-0.parquet", folders.nextqa_rows())
    for number, (now, then) in enumerate((
        ("[a0, a1", "[b0, a1"), ("{type[0]}", "{tpe[0]}"), ("{index: answer}", "{index: anser}"), ("_{qid}", "_{qi}"),
        ("[a0, a1, a2, a3, a4]", "candidates"),
        ('path: ["{video}.mp4", "{vidor}.mp4"]', 'path: ["{vid}.mp4"]'),
    )):  # fmt: skip
        (tmp_path / f"wrong{number}.yaml").write_text(text.replace(now, then), encoding="utf-8")
        with pytest.raises(ConfigError) as error:
            read_dataset(f"wrong{number}", tmp_path)
        assert "test-0.parquet, record 0" in str(error.value) and "(it has" in str(error.value), str(error.value)


def test_an_answer_of_another_form_is_shown_the_three_forms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(layout.__file__).with_name("nextqa.yaml")).read_text(encoding="utf-8")
    monkeypatch.setattr(layout, "_FILES", tmp_path)
    folders.write_parquet(tmp_path / "test-0.parquet", folders.nextqa_rows())
    for form in ("letter", "text"):
        (tmp_path / f"as{form}.yaml").write_text(text.replace("{index: answer}", f"{{{form}: answer}}"), "utf-8")
        with pytest.raises(ConfigError) as error:
            read_dataset(f"as{form}", tmp_path)
        for each in (f"as{form}.yaml", "{index: COLUMN}", "{letter: COLUMN}", "{text: COLUMN}"):
            assert each in str(error.value)


def test_options_that_begin_with_their_letters_are_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(layout.__file__).with_name("nextqa.yaml")).read_text(encoding="utf-8")
    monkeypatch.setattr(layout, "_FILES", tmp_path)
    names = [f"a{place}" for place in range(5)]
    forms = ("{letter}. {text}", "({letter}) {text}", "{letter}) {text}", "{text}")
    rows = [
        row | {name: form.format(letter=letter, text=row[name]) for name, letter in zip(names, "ABCDE", strict=True)}
        for row, form in zip(folders.nextqa_rows(), forms, strict=True)
    ]
    folders.write_parquet(tmp_path / "test-0.parquet", rows)
    for name, then, noted in (("plain", "answer:", ["3 questions"]), ("taken", "labelled: true\n  answer:", [])):
        (tmp_path / f"{name}.yaml").write_text(text.replace("answer:", then), "utf-8")
        notes = [note for note in check(read_dataset(name, tmp_path)).notes if "labelled: true" in note]
        assert [note[: len("3 questions")] for note in notes] == noted


def test_every_benchmark_has_a_miniature_folder() -> None:
    for name in names():
        assert name in folders.WRITERS, folders.missing(name)
    assert set(folders.WRITERS) == set(names()), "WRITERS of tests/benchmark_folders.py: take out those without a YAML"


def test_the_example_of_contributing_is_a_benchmark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clips: Clips
) -> None:
    text = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^   ```yaml\n(.*?)^   ```", text, re.MULTILINE | re.DOTALL)
    monkeypatch.setattr(layout, "_FILES", tmp_path)
    (tmp_path / "myqa.yaml").write_text(textwrap.dedent(example), encoding="utf-8")
    with pytest.raises(MediaError) as error:
        read_dataset("My-QA", tmp_path)
    assert "test.csv" in str(error.value) and "videos.zip" in str(error.value)
    head = "video,question,answer,qid,type,a0,a1,a2\n"
    (tmp_path / "test.csv").write_text(head + "".join(f"v,Q?,{n},{n},why,x,y,z\n" for n in range(3)), encoding="utf-8")
    clips.put(tmp_path / "videos" / "v.mp4")
    data = read_dataset("my_qa", tmp_path)
    assert [record.id for record in data.records] == ["v_0", "v_1", "v_2"]
    assert "".join(record.answer or "" for record in data.records) == "ABC" and data.records[0].options == (
        "x",
        "y",
        "z",
    )
    assert check(data).complete and check(data).by_group == {"why": (3, 3)} and not check(data).notes
    assert protocol_for("myqa").prompt == "letter" and columns_of("myqa") == {"lmms": "lmms_mvbench"}


def test_check_refuses_a_scorer_that_there_is_none_of_as_a_run_does(
    whole: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (Path(layout.__file__).with_name("nextqa.yaml")).read_text(encoding="utf-8")
    assert "lmms: lmms_nextqa" in text
    monkeypatch.setattr(layout, "_FILES", tmp_path)
    (path := tmp_path / "scored.yaml").write_text(text.replace("lmms: lmms_nextqa", "lmms: lms_nextqa"), "utf-8")
    line = 1 + text[: text.index("lmms: lmms_nextqa")].count("\n")
    said = []
    for words in (["eval", "check", "scored"], ["eval", "run", "scored"]):
        assert main([*words, "--data", str(whole["nextqa"])]) == 2
        said.append(capsys.readouterr().err)
    assert said[0] == said[1] and f"{path}:{line}: " in said[0] and "'lmms_nextqa'" in said[0]


@pytest.mark.parametrize(
    ("now", "then", "said"),
    [
        ("{type[0]}", "{type[0}", "'{type[0}'"),
        ("{type[0]}", "{type[9]}", "'{type[9]}'"),
        ("[test.csv, nextqa", '["{tsk}.csv", nextqa', "'tsk'"),
        ("prepared: MC/test", 'prepared: "{tsk}/test"', "'tsk'"),
    ],
)
def test_braces_that_cannot_be_filled_in_are_shown(
    now: str, then: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (Path(layout.__file__).with_name("nextqa.yaml")).read_text(encoding="utf-8")
    monkeypatch.setattr(layout, "_FILES", tmp_path)
    assert now in text
    if "prepared" not in now:
        folders.write_parquet(tmp_path / "test-0.parquet", folders.nextqa_rows())
    name = f"wrong{layout.bare(tmp_path.name)}"
    (tmp_path / f"{name}.yaml").write_text(text.replace(now, then), encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        read_dataset(name, tmp_path)
    assert said in str(error.value)


@pytest.mark.parametrize("name", names())
def test_every_file_of_a_benchmark_can_be_read_and_is_called_as_its_title(name: str) -> None:
    known = benchmark(name)
    called = layout.bare(known.title)
    assert called == known.name == name, f"call the file {called}.yaml, as its title {known.title!r}, or mend the title"
    assert known.source, f"{name}.yaml: add source: the paper, and where the layout is described"
    assert known.layout, f"{name}.yaml: add layout: what its folder holds, a line each"
    assert benchmark(known.title) is known
    if known.each:
        part, (first, *_) = sum(each["questions"] for each in known.each.values()), known.parts
        said = f"{name}.yaml: questions of each add up to {part}; write that under parts, {first}, or mend each"
        assert part == known.parts[first].questions, said
