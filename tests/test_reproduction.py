"""``prunevid reproduce NAME`` with the bundled model: its pages, and what they never hide."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from prunevid_qwen import PruneVidQwen25VL
from prunevid_qwen.evaluation.engine.answering import Answering
from prunevid_qwen.evaluation.published import ours_beside_theirs as comparison
from prunevid_qwen.evaluation.published import timing
from prunevid_qwen.evaluation.published.table import BASELINE_ROW, published_table
from tests.published_rows import QWEN
from tests.reproduction_data import call, prunevid, write_data

LARGER = ("--frames", "8", "--max_pixels", "12544")  # enough tokens that no row is at its least, one


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("reproduction ü"))


def figures(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "reproduction.json").read_text())
    return found


def page(folder: Path) -> str:
    return (folder / "reproduction.md").read_text()


def rows_of(folder: Path, name: str) -> dict[str, dict[str, Any]]:
    [each] = [each for each in figures(folder)["asked"] if each["name"] == name]
    return {row["row"]: row for row in each["tables"][0]["rows"]}


@pytest.fixture(scope="module")
def ran(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FlashVID's script on two of its data sets, one of them in two parts."""
    out = tmp_path_factory.mktemp("flashvid")
    words = ("--only", "mvbench", "--only", "egoschema-full", "--limit", "2", *LARGER)
    assert call(root, "flashvid", ("mvbench", "egoschema"), *words, "--out", str(out)) == 0
    return out / "32frames"


def test_the_page_has_their_figures_as_theirs_beside_ours(ran: Path) -> None:
    text, rows = page(ran), rows_of(ran, "mvbench")
    assert "Every figure called theirs is that paper's; this project measured none of them." in text
    head = next(line for line in text.splitlines() if line.startswith("| row |"))
    assert head.split(" | ")[1:3] == ["theirs", "their difference"]
    assert "| FastV 25 % | 67.4 | -0.6 | " in text
    assert rows["FastV 25 %"]["published"] == {"score": 67.4, "baseline": 68.0, "difference": -0.6}
    assert rows["FastV 25 %"]["ours"]["difference"]["pairs"] == 2
    assert "| FlashVID 25 % | 67.1 | -0.9 | " in text and rows["PruneVid 25 %"]["published"] is None
    assert all(rows[f"{name} 25 %"]["ours"]["answered"] == 2 for name in ("VisionZip", "FastVID", "FlashVID"))


def test_the_page_never_hides_that_it_is_partial(ran: Path) -> None:
    text = page(ran)
    states = {each["name"]: each["state"] for each in figures(ran)["asked"]}
    assert states == {
        "mvbench": "partial", "videomme": "not run", "egoschema-subset": "not run",
        "egoschema-full": "scored by its authors", "longvideobench": "not run",
    }  # fmt: skip
    assert "| MVBench | **PARTIAL**: answered 2 of 3 (errors: 0): baseline, " in text
    assert "the folder holds 3 of the 4000 questions as published" in text
    assert "| Video-MME | **not run** |" in text
    assert " of 2/3 found (" in text and "does not compare" in text
    assert all(row["inside"] is None for row in rows_of(ran, "mvbench").values())


def test_deviations_come_from_what_was_recorded(root: Path, ran: Path) -> None:
    before = page(ran)
    words = ("--page_only", "--out", str(ran.parent))  # says nothing of frames, pixels or the model
    assert prunevid("flashvid", *words) == 0
    assert page(ran) == before
    said = figures(ran)["deviations"]
    for words in (
        "model: bundled, not Qwen/Qwen2.5-VL-7B-Instruct", "device: cpu", "frames 8, not 32",
        "max_pixels 12544, not 602112", "FastV 10 %: not run",
    ):  # fmt: skip
        assert words in said
    assert any(words.startswith("FastV 25 %: keep_ratio 0.142857") for words in said)
    assert "| FastV 10 % | 63.6 | -4.4 | not run |" in before


def test_a_page_is_written_where_the_model_is_gone(ran: Path, tmp_path: Path) -> None:
    shutil.copytree(ran, tmp_path / "32frames")
    record = tmp_path / "32frames/mvbench/run.json"
    record.write_text(record.read_text().replace('"model_path": "bundled"', '"model_path": "/gone/model"'))
    assert prunevid("flashvid", "--page_only", "--out", str(tmp_path)) == 0
    rows = rows_of(tmp_path / "32frames", "mvbench")
    assert rows["FastV 25 %"]["asked"] is None and rows["FastV 25 %"]["ours"] is not None
    assert rows_of(ran, "mvbench")["FastV 25 %"]["asked"]["exact"]


def test_another_predictor_revision_or_dtype_is_a_deviation() -> None:
    table = published_table("glimpseprune_vstar")
    for setting in table.settings:
        asked = setting.sets[0]
        configs = {row.name: row.ours.config(QWEN).flat() if row.ours else {} for row in setting.rows
                   if row.ours or setting.timed}  # fmt: skip
        for each in configs.values():
            if each.get("selector") == "glimpse":
                each["glimpse_path"] = "/models/GlimpsePrune_Qwen2.5-VL-7B-Instruct"
        record = {
            "options": {"model_path": "/models/Qwen2.5-VL-7B-Instruct", "device": "cuda"},
            "configs": configs, "protocol": asked.protocol.to_dict(),
        }  # fmt: skip
        assert comparison.deviations(table, setting, asked, record) == []
        configs["GlimpsePrune"]["glimpse_path"] = "mine/vip"
        record["options"] |= {"loading: revision": "old", "loading: dtype": "float32"}
        said = [
            f"predictor: mine/vip, not {table.glimpse}",
            "revision: old",
            "dtype: float32, not the checkpoint's bfloat16",
        ]
        assert comparison.deviations(table, setting, asked, record) == said


def test_the_page_shows_what_did_not_run_by_its_published_figures_alone(ran: Path) -> None:
    text = page(ran)
    subset = text.partition("## EgoSchema subset\n")[2].partition("\n## ")[0]
    rows = [line.split(" | ")[:3] for line in subset.splitlines() if line.startswith("| ") and "| row |" not in line]
    assert rows == [["| baseline", "60.2", ""]]
    assert set(rows_of(ran, "videomme")) == {
        "baseline",
        *(f"{name} {share} %" for name in ("FastV", "VisionZip", "FastVID", "FlashVID") for share in (25, 20, 15, 10)),
    }


def test_a_deviation_of_one_data_set_names_it(ran: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        comparison,
        "deviations",
        lambda _table, _setting, asked, _record: ["same", "odd"][: 1 + (asked.name == "mvbench")],
    )
    table = published_table("flashvid")
    setting = table.settings[0]
    assert comparison.compare(table, setting, ran)["deviations"] == ["same", "odd (MVBench)"]


def test_rows_spend_what_they_were_asked_to(ran: Path) -> None:
    rows = rows_of(ran, "mvbench")
    for name, row in rows.items():
        if row["ours"] is None:
            continue
        asked, spent = row["asked"], row["achieved"]
        if name != BASELINE_ROW:  # of the bundled model's 8 layers, as the name says
            assert asked["layer_average"] == pytest.approx(int(name.split()[-2]) / 100)
        rounding = 1.0 / spent["visual"]
        # FlashVID rounds up in each frame, here of 16 tokens
        above = 1 / 16 if name.startswith("FlashVID") else 1e-9
        assert spent["layer_average_kept"] <= asked["layer_average"] + above, name
        if asked["exact"]:
            assert spent["layer_average_kept"] >= asked["layer_average"] - rounding, name


def test_hidden_answers_end_in_a_file_for_their_authors(ran: Path) -> None:
    [each] = [each for each in figures(ran)["asked"] if each["name"] == "egoschema-full"]
    one = next(file for file in each["files"] if file["config"] == "FastV 25 %")
    assert (one["answered"], one["of"]) == (1, 3)  # two were asked, and a video is missing
    assert Path(one["file"]).name == "egoschema FastV 25 % (1 of 3).json"
    assert list(json.loads(Path(one["file"]).read_text())) == ["00000000-aaaa"]
    assert "no score here: the answers are not public. Answered: 1 of 3" in page(ran)
    assert "FastV 25 %: 1 of 3 answered, for the authors' server: " in page(ran)


@pytest.mark.nightly
def test_a_run_goes_on_and_others_join_its_page(
    root: Path, ran: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = page(ran)
    with monkeypatch.context() as without:
        without.setattr(PruneVidQwen25VL, "from_pretrained", None)
        words = ("--only", "mvbench", "--limit", "2", *LARGER, "--out", str(ran.parent))
        assert call(root, "flashvid", ("mvbench",), *words) == 0
    assert page(ran) == before


@pytest.mark.nightly
def test_other_scripts_run(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, load = [], Answering.load
    monkeypatch.setattr(Answering, "load", lambda self: (loaded.append(self), load(self))[1])
    sets = ("mvbench", "videomme", "egoschema")
    few = ("--limit", "1", "--frames", "4", "--out")
    assert call(root, "prunevid_table6", sets, *few, str(tmp_path / "prunevid")) == 0
    assert len(loaded) == 1  # for eight runs
    for setting in ("16frames", "768frames"):
        rows = rows_of(tmp_path / "prunevid" / setting, "videomme")
        assert rows["PruneVid"]["ours"]["answered"] == 1 and rows["PruneVid"]["published"]["score"] == 64.8
    assert rows["PruneVid stage 1"]["published"]["baseline"] == 67.3
    assert "frames and prompt" not in page(tmp_path / "prunevid" / "16frames")
    assert "frames, pixels and prompt of table 6 are not stated" in page(tmp_path / "prunevid" / "16frames")
    capsys.readouterr()
    assert call(root, "fastvid", ("videomme",), *few, str(tmp_path / "fastvid"), "--json") == 0
    told = json.loads(capsys.readouterr().out)["768frames"]
    assert [part["group"] for part in told["asked"][0]["tables"]] == [None, "short", "medium", "long"]
    short = {row["row"]: row for row in told["asked"][0]["tables"][1]["rows"]}
    assert short["PruneVid stage 1"]["published"] == {"score": 67.0, "baseline": 76.7, "difference": -9.7}
    assert short["random"]["ours"]["answered"] == 1 and short["FastVID"]["ours"]["answered"] == 1


@pytest.mark.nightly
def test_v_star_is_scored_and_timed(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(timing, "ROUNDS", 1)
    words = ("--limit", "4", "--new_tokens", "2", "--out", str(tmp_path))
    assert call(root, "glimpseprune_vstar", ("vstar",), *words) == 0
    rows = rows_of(tmp_path / "accuracy", "vstar")
    assert rows["GlimpsePrune"]["ours"]["answered"] == 3 and rows["GlimpsePrune"]["ours"]["errors"] == 1
    assert rows["VisionZip"]["asked"] == {"layer_average": pytest.approx(0.111), "exact": True}
    assert rows["VScan"]["ours"]["answered"] == 3 and 0.167 * 0.333 < rows["VScan"]["asked"]["layer_average"] < 0.167
    assert rows["PDrop"]["ours"] is None
    assert "| PDrop | 42.4 | -29.3 | not implemented here |" in page(tmp_path / "accuracy")
    assert rows["random"]["achieved"]["kept"] == pytest.approx(rows["uniform"]["achieved"]["kept"])
    assert rows["random"]["asked"]["layer_average"] == pytest.approx((3 + 5 * 0.111) / 8)  # its layer 2 of 8
    found, text = figures(tmp_path / "efficiency"), page(tmp_path / "efficiency")
    assert (found["images"], found["of"], found["device"]) == (3, 100, "cpu")
    assert "**PARTIAL**: 3 of 100 images were measured." in text and "not measured: relative_position/3: " in text
    assert "prefill ms: 423.3 unpruned, 306.9 GlimpsePrune" in text.partition("## Published, theirs")[2]
    assert "times of cpu say nothing about a GPU" in text
    stock, baseline, glimpse, random = found["rows"]
    assert stock["flops"] == baseline["flops"] and stock["cache_length"] == baseline["cache_length"]
    assert glimpse["flops"]["decoder"] < baseline["flops"]["decoder"] and glimpse["kept"] == random["kept"] < 1
    assert glimpse["cache_length"] == random["cache_length"] < baseline["cache_length"]
    assert baseline["ratio"]["decoder"] == {"median": 1.0, "low": 1.0, "high": 1.0, "n": 3}
    assert all(row["seconds"]["first_token"]["median"] > 0 for row in found["rows"])
    lines = [json.loads(line) for line in (tmp_path / "efficiency/vstar/answers.jsonl").read_text().splitlines()]
    assert {line["config"] for line in lines} == {"stock", "baseline", "GlimpsePrune", "random"}
    monkeypatch.setattr(PruneVidQwen25VL, "from_pretrained", None)
    again = ("--setting", "efficiency", "--limit", "3", *words[2:])
    assert call(root, "glimpseprune_vstar", ("vstar",), *again) == 0  # all three are measured: no model is needed
    assert figures(tmp_path / "efficiency") == found
    assert prunevid("glimpseprune_vstar", "--setting", "speed") == 2
    assert "got 'speed'; the settings of glimpseprune_vstar are accuracy, efficiency" in capsys.readouterr().err


def test_inside_is_said_of_whole_runs_alone() -> None:
    published = {"score": 60.2, "baseline": 61.3, "difference": -1.1}
    own = {"partial": False, "difference": {"value": -0.01, "interval": [-0.02, 0.0], "pairs": 2700}}
    assert comparison.inside(published, own) is True
    assert comparison.inside({**published, "difference": -2.1}, own) is False
    assert comparison.inside(published, {**own, "partial": True}) is None
    assert comparison.inside(published, {**own, "difference": {"interval": None}}) is None
    assert comparison.inside(None, own) is None
