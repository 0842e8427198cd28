"""`prunevid eval run` with the bundled model: every data set from its folder to its table, and what is stored."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from prunevid_qwen.cli import main
from prunevid_qwen.evaluation.datasets import names, read_dataset
from prunevid_qwen.evaluation.engine import answering
from prunevid_qwen.evaluation.protocol.protocol import protocol_named
from prunevid_qwen.evaluation.tasks.runs import spread
from tests.benchmark_runs import CONFIGS, DOZEN, FEW, ROOT, SHAPES, SMALL, TABLES, lines, row, run, tables

# ---- every data set, end to end


ANSWERED = [
    ("mvbench", 40, 40),
    ("videomme", 9, 9),
    ("egoschema", 2, 2),
    ("longvideobench", 2, 2),
    ("mlvu", 7, 7),
    ("vstar", 3, 4),  # one is too wide for the model
    ("nextqa", 4, 4),
    ("tempcompass", 5, 5),
]
"""Each benchmark, its questions that can be answered, and all of its miniature folder."""


def test_every_benchmark_is_run_here() -> None:
    assert {name for name, _, _ in ANSWERED} == set(names()), "a line in ANSWERED for each benchmark"


@pytest.mark.parametrize(
    ("dataset", "answered", "of"),
    [
        each if each[0] in ("videomme", "nextqa") else pytest.param(*each, marks=pytest.mark.nightly)
        for each in ANSWERED
    ],
)
def test_every_data_set_gets_from_its_folder_to_a_table(
    sets: dict[str, Path], tmp_path: Path, dataset: str, answered: int, of: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(sets[dataset], tmp_path, *SMALL, dataset=dataset) == 0
    said = capsys.readouterr()
    found = row(tmp_path, "paper")
    assert (found["answered"], found["samples"]) == (answered, of)
    assert f"{answered}/{of}" in said.out and "answering" in said.err and "left" in said.err
    assert found["difference"]["pairs"] == answered
    for line in lines(tmp_path):
        assert line["protocol"]["dataset"] == dataset and line["config"] in ("baseline", "paper")
        if line["error"] is None:
            (media,) = line["media"]
            assert media["resized"] and line["tokens"]["visual"] > 0 and "<|im_start|>assistant" in line["prompt"]
            if dataset != "vstar":
                assert 2 <= len(media["indices"]) <= 4 and media["seconds_per_grid"] > 0
            assert line["config"] == "baseline" or line["kept_ratio"] < 0.5
    assert row(tmp_path, "paper")["errors"] == of - answered


def test_hidden_answers_give_a_file_for_the_authors_and_no_score(
    sets: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (*SMALL, "--part", "full", "--config", "paper")
    assert run(sets["egoschema"], tmp_path, *words, dataset="egoschema") == 0
    said = capsys.readouterr()
    assert f"prunevid eval export {tmp_path}" in said.out + said.err
    assert main(["eval", "tables", str(tmp_path)]) == 2
    assert "not public" in capsys.readouterr().err
    assert main(["eval", "export", str(tmp_path), "--file", str(tmp_path / "s.json")]) == 0
    letters = json.loads((tmp_path / "s.json").read_text())
    assert len(letters) == 3 and set(letters.values()) <= {-1, 0, 1, 2, 3, 4}


def test_video_mme_is_exported_for_its_own_script(sets: dict[str, Path], tmp_path: Path) -> None:
    assert run(sets["videomme"], tmp_path, *SMALL, dataset="videomme") == 0
    assert main(["eval", "export", str(tmp_path), "--config", "paper"]) == 0
    videos = json.loads((tmp_path / "videomme paper.json").read_text())
    stored = {line["id"]: line["raw"] for line in lines(tmp_path) if line["config"] == "paper"}
    assert {q["question_id"]: q["response"] for video in videos for q in video["questions"]} == stored
    assert main(["eval", "export", str(tmp_path)]) == 2
    for path in (tmp_path / "run.json", tmp_path / "answers.jsonl"):  # names of configs hold paths
        path.write_text(path.read_text().replace('"paper"', '"paper glimpse_path=/a"'))
    assert main(["eval", "export", str(tmp_path), "--config", "paper glimpse_path=/a"]) == 0
    assert json.loads((tmp_path / "videomme paper glimpse_path=_a.json").read_text()) == videos


def test_subtitles_are_those_at_the_frames_taken(sets: dict[str, Path], tmp_path: Path) -> None:
    words = ("--protocol", "videomme_official_subtitles", "--config", "baseline", "--limit", "9")
    small = ("--min_pixels", "784", "--max_pixels", "784", "--sampler", "linspace", "--frames", "2")
    assert run(sets["videomme"], tmp_path, *words, *small, dataset="videomme") == 0
    prompts = {line["id"]: line["prompt"] for line in lines(tmp_path)}
    # frames at 0 and 1.83 s: the cue from 0 s and the one from 1.3 s, not those between
    assert "listed below:\nHello & welcome\n5\nSelect" in prompts["001-2"] and "over it" not in prompts["001-2"]
    assert "subtitles" not in prompts["003-1"]


def test_subtitles_of_longvideobench_are_shown(sets: dict[str, Path], tmp_path: Path) -> None:
    words = (*SMALL, "--protocol", "letter_subtitles", "--config", "baseline")
    assert run(sets["longvideobench"], tmp_path, *words, dataset="longvideobench") == 0
    prompts = {line["id"]: line["prompt"] for line in lines(tmp_path)}
    assert "listed below:\nin\nWhat" in prompts["one_0"] and "before" not in prompts["one_0"]


# ---- what is asked, and what is stored


def test_the_bundled_model_answers_and_pruning_is_compared_pair_by_pair(finished: Path) -> None:
    base, few, control = (row(finished, name) for name in CONFIGS)
    assert base["score"] > 0.9 and base["score"] - few["score"] == pytest.approx(-few["difference"]["value"])
    assert control["difference"]["value"] < few["difference"]["value"]
    assert few["unparsed_rate"] == 0 and few["columns"]["pllava"]["score"] == pytest.approx(few["score"])
    summary = json.loads((finished / "summary.json").read_text())
    kept = {each["config"]: each["kept"] for each in summary["tokens"]["rows"]}
    assert kept["baseline"] == 1 and 0 < kept[FEW] < 0.1
    assert kept[FEW] == pytest.approx(sum(o["kept_ratio"] for o in lines(finished) if o["config"] == FEW) / 36)
    stored = [line for line in lines(finished) if line["config"] == FEW]
    assert all(
        line["protocol"]["prompt"] == "videochat2" and line["prompt"].endswith("Best option:(") for line in stored
    )
    assert all(line["media"][0]["indices"] == stored[0]["media"][0]["indices"] for line in stored)
    assert len({line["run"] for line in lines(finished)}) == 3


def test_the_page_says_what_answered(finished: Path) -> None:
    page = (finished / "report.md").read_text(encoding="utf-8").partition("## What answered")[2]
    assert "- model_path: bundled" in page and "- protocol: frames: 8" in page and "- transformers: " in page
    assert f"- config `{FEW}`: keep_ratio=0.1\n" in page and "- config `baseline`: enable_stage1=False" in page


def test_where_nothing_is_there_no_model_is_loaded(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(answering.Answering, "load", lambda self: pytest.fail("a model was loaded"))
    shutil.copytree(shapes / "json", tmp_path / "data" / "json")
    (tmp_path / "data" / "video").mkdir()
    assert run(tmp_path / "data", tmp_path / "out", *SHAPES) == 4
    assert "none of the 9 media" in (said := capsys.readouterr().err) and "prunevid eval check mvbench" in said
    assert not (tmp_path / "out").exists()


def test_one_decoding_and_one_encoding_serve_all_questions_and_configs(
    dozen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = []
    encode = answering.Encoded._encode
    monkeypatch.setattr(answering.Encoded, "_encode", lambda *given: encoded.append(1) or encode(*given))
    assert run(dozen, tmp_path, *DOZEN) == 0
    assert len(lines(tmp_path)) == 3 * 2 * 2 and len(encoded) == 3


def test_a_limit_sees_every_part_of_the_set_and_may_grow(
    dozen: Path, stubbed: Path, stub: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = read_dataset("mvbench", dozen).records
    assert [records.index(each) for each in spread(records, 3)] == [0, 2, 4]
    assert run(dozen, tmp_path, *DOZEN, "--limit", "3") == 0
    assert "of 3/6" in capsys.readouterr().out
    assert {line["groups"]["task"] for line in lines(tmp_path)} == set(
        json.loads((tmp_path / "run.json").read_text())["manifest"]["groups"]["task"]
    )
    assert run(dozen, tmp_path, *DOZEN, "--limit", "4") == 0 and len(lines(tmp_path)) == 10  # 0, 1, 3, 4: two more
    assert run(dozen, tmp_path, *DOZEN) == 0
    assert tables(tmp_path) == tables(stubbed) and len(lines(tmp_path)) == 12


def test_nothing_left_to_do_loads_no_model(
    stubbed: Path, tmp_path: Path, dozen: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = Path(shutil.copytree(stubbed, tmp_path / "run"))
    for name in TABLES:
        (out / name).unlink()
    monkeypatch.setattr(answering.Answering, "load", lambda self: pytest.fail("a model was loaded"))
    assert run(dozen, out, *DOZEN) == 0
    assert tables(out) == tables(stubbed)
    for name in TABLES:
        (out / name).unlink()
    assert main(["eval", "tables", str(out)]) == 0 and tables(out) == tables(stubbed)


def test_configs_added_later_stand_beside_the_others(
    dozen: Path, stub: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head, later, together = SHAPES[:-2], tmp_path / "later", tmp_path / "together"
    assert run(dozen, together, *SHAPES) == 0
    assert run(dozen, later, *head, "--config", "paper", "--keep_ratio", "0.1") == 0
    assert "baseline" in capsys.readouterr().out
    assert run(dozen, later, *head, "--config", "baseline", "--keep_ratio", "0.1") == 0
    assert run(dozen, later, *head, "--config", "paper+selector=random", "--keep_ratio", "0.1") == 0
    names = [line["config"] for line in lines(later)]
    assert names == [FEW] * 6 + ["baseline"] * 6 + ["paper selector=random keep_ratio=0.1"] * 6
    for config in CONFIGS:
        assert row(later, config) == row(together, config)
    assert json.loads((later / "summary.json").read_text())["configs"] == ["baseline", FEW, CONFIGS[2]]


def test_a_dry_run_stops_before_the_model(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(answering.Answering, "load", lambda self: pytest.fail("a model was loaded"))
    assert run(shapes, tmp_path / "out", *SHAPES, "--dry_run", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["questions"], told["answers"], told["configs"]) == (36, 108, list(CONFIGS))
    assert told["first"]["frames, height, width"] == [[8, 112, 112]] and told["options"]["protocol: frames"] == 8
    first = read_dataset("mvbench", shapes).records[0]
    text = protocol_named("mvbench_videochat2", "mvbench").text
    said = {"system": text.system, "user": text.write(first), "assistant": text.prefill}
    assert told["prompt"] == said and first.question in said["user"] and all(said.values())
    assert run(shapes, tmp_path / "out", *SHAPES, "--dry_run") == 0
    shown = capsys.readouterr().out
    assert all(each is not None and each in shown for each in said.values())
    assert not (tmp_path / "out").exists()


@pytest.mark.nightly
def test_json_is_one_object_and_the_script_is_the_command(dozen: Path, answered: Path, tmp_path: Path) -> None:
    words = ["--dataset", "mvbench", "--data", str(dozen), "--out", str(tmp_path), "--json", *DOZEN]
    done = subprocess.run(
        [sys.executable, str(ROOT / "eval" / "run.py"), *words, "--workers", "1"],
        capture_output=True, text=True, check=True, cwd=tmp_path,
    )  # fmt: skip
    assert json.loads(done.stdout) == json.loads((answered / "summary.json").read_text())
    assert tables(tmp_path) == tables(answered)
