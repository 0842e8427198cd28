"""``prunevid eval visual-cot`` with the bundled model: answers, refusals, coverage; a kill costs time alone."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from prunevid_qwen import PruneVidQwen25VL
from prunevid_qwen.cli import main
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.errors import ConfigError, SetupError
from prunevid_qwen.evaluation.store.identity import digest
from prunevid_qwen.evaluation.tasks.visual_cot import BRIEF, Sample, VisualCotRun
from tests.visual_cot_set import FEW, LINE, lines, still, write_sets

TABLES = ("report.md", "summary.csv", "summary.json")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("visual cot ü")
    write_sets(root)
    return root


def evaluate(root: Path, out: Path, *words: str) -> int:
    data = ["--data", str(root / "benchmark"), "--images", str(root), "--max_new_tokens", "8"]
    config = [] if "--config" in words else ["--config", str(root / "few.json")]
    return main(["eval", "visual-cot", *data, *config, "--out", str(out), *words])


@pytest.fixture(scope="module")
def finished(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished")
    assert evaluate(root, out) == 0
    return out


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every question that reaches a model."""
    questions: list[str] = []
    messages = Sample.messages

    def watched(self: Sample, *given: Any) -> Any:
        questions.append(self.text)
        return messages(self, *given)

    monkeypatch.setattr(Sample, "messages", watched)
    return questions


def rows(folder: Path) -> dict[tuple[str, str], dict[str, Any]]:
    summary = json.loads((folder / "summary.json").read_text())
    return {(row["set"], row["config"]): row for row in summary["rows"]}


def test_every_sample_is_answered_under_every_config(finished: Path) -> None:
    written = lines(finished)
    assert all(set(line) == LINE for line in written)
    wanted = [(name, k, c) for name in ("colors", "shapes") for k in range(4) for c in ("baseline", FEW)]
    assert [(line["set"], line["id"], line["config"]) for line in written] == wanted
    unpruned, pruned = written[8], written[9]
    item = still(0).objects[0]
    assert unpruned["answer"] == item.color and unpruned["reference"] == f"{item.color.capitalize()}."
    assert unpruned["question"] == f"What color is the {item.shape}?" and unpruned["kept_ratio"] == 1
    assert pruned["tokens"] == {"visual": 16, "after_stage1": 16, "after_stage2": 1, "layer_average": 2.875}
    assert pruned["kept_ratio"] == 1 / 16 and 0 < pruned["generated_tokens"] <= 8
    assert 0 < pruned["seconds"]["first_token"] <= pruned["seconds"]["total"]


def test_the_summary_counts_what_the_lines_say(finished: Path) -> None:
    found, written = rows(finished), lines(finished)
    assert list(found) == [
        (s, c) for s in ("colors", "shapes", "mean of sets", "all samples") for c in ("baseline", FEW)
    ]
    for (name, config), row in found.items():
        own = [
            line
            for line in written
            if line["config"] == config and name in (line["set"], "all samples", "mean of sets")
        ]
        right = [line["reference"].rstrip(".").lower() == line["answer"] for line in own]
        assert row["score"] == row["exact"] == row["contained"] == pytest.approx(sum(right) / len(own))
        assert row["answered"] == row["samples"] == len(own) and row["error_rate"] == 0
        assert row["kept_ratio"] == pytest.approx(1 if config == "baseline" else 1 / 16)
    base, pruned = found["all samples", "baseline"], found["all samples", FEW]
    assert base["score"] == 1 and pruned["score"] < 1 and base["difference"] is None
    assert pruned["difference"]["value"] == pytest.approx(pruned["score"] - 1) and pruned["difference"]["pairs"] == 8
    low, high = pruned["difference"]["interval"]
    assert low <= pruned["difference"]["value"] <= high
    with (finished / "summary.csv").open() as file:
        flat = {(row["set"], row["config"]): row for row in csv.DictReader(file)}
    assert float(flat["shapes", FEW]["score"]) == found["shapes", FEW]["score"] and flat["shapes", FEW]["pairs"] == "4"
    page = (finished / "report.md").read_text()
    assert f"| shapes | {FEW} | 4/4 |" in page and "**" not in page


@pytest.mark.parametrize(
    "where",
    [
        pytest.param(0.0, marks=pytest.mark.nightly),
        0.31,
        pytest.param(0.5, marks=pytest.mark.nightly),
        pytest.param(0.99, marks=pytest.mark.nightly),
    ],
)
def test_a_killed_run_comes_to_the_same_tables(
    where: float, root: Path, finished: Path, copy: Path, asked: list[str]
) -> None:
    whole = (copy / "answers.jsonl").read_bytes()
    cut = int(len(whole) * where)
    (copy / "answers.jsonl").write_bytes(whole[:cut])
    for name in TABLES:
        (copy / name).unlink()
    assert evaluate(root, copy) == 0
    assert len(asked) == 16 - whole[:cut].count(b"\n")
    for name in TABLES:
        assert (copy / name).read_bytes() == (finished / name).read_bytes()


def test_a_finished_run_loads_no_model(root: Path, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PruneVidQwen25VL, "from_pretrained", lambda *_, **__: pytest.fail("the model was loaded"))
    assert evaluate(root, copy) == 0


def test_ctrl_c_loses_nothing(root: Path, finished: Path, tmp_path: Path, asked: list[str], monkeypatch: Any) -> None:
    messages = Sample.messages

    def interrupted(self: Sample, *given: Any) -> Any:
        if len(asked) == 5:
            raise KeyboardInterrupt
        return messages(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(Sample, "messages", interrupted)
        assert evaluate(root, tmp_path) == 130
    assert len(lines(tmp_path)) == 5 and not (tmp_path / "report.md").exists()
    assert evaluate(root, tmp_path, "--judge_only") == 0  # what is there can be looked at
    assert "only 3 of 4 samples were answered" in (tmp_path / "report.md").read_text()
    assert evaluate(root, tmp_path) == 0
    assert len(asked) == 16 and (tmp_path / "report.md").read_bytes() == (finished / "report.md").read_bytes()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--brief"], "suffix was '', is now 'Answer the question"),
        (["--max_new_tokens", "9"], "max_new_tokens was 8, is now 9"),
        (["--limit", "3"], "records of colors was '4 records"),
        (["--config", "conservative"], "configs was"),
        (["--no_baseline"], "configs was"),
        (["--max_pixels", "50176"], "configs was"),
        (["--dtype", "bfloat16"], "loading: dtype was None, is now 'bfloat16'"),
    ],
)
def test_another_run_is_refused_by_name(words: list[str], said: str, root: Path, copy: Path, capsys: Any) -> None:
    before = (copy / "answers.jsonl").read_bytes()
    assert evaluate(root, copy, *words) == 2
    printed = capsys.readouterr().err
    assert said in printed and "--restart" in printed and "another folder" in printed
    assert (copy / "answers.jsonl").read_bytes() == before


def test_changed_records_are_refused_and_restart_takes_them(root: Path, copy: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(root, tmp_path / "other"))
    path = other / "benchmark" / "shapes.json"
    path.write_text(path.read_text().replace("What color is", "Which color is", 1))
    assert evaluate(other, copy) == 2
    assert evaluate(other, copy, "--restart") == 0
    assert lines(copy)[8]["question"].startswith("Which color")


def test_weights_and_files_that_configs_name_are_part_of_a_run(tmp_path: Path) -> None:
    def options(model: str, configs: Any = ()) -> dict[str, Any]:
        return VisualCotRun((), tmp_path, configs, model_path=model, loading={"device": "cpu"}).options([])

    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_bytes(b"1")
    with pytest.raises(ConfigError):  # it has no config.json: before a folder of results is that model's
        options(str(tmp_path / "model"))
    (tmp_path / "model" / "config.json").write_text("{}")
    before = options(str(tmp_path / "model"))
    (tmp_path / "model" / "weights").write_bytes(b"2")
    after = options(str(tmp_path / "model"))
    assert after["model"] != before["model"] and after["device"] == "cpu"
    assert digest(tmp_path / "model") != digest(tmp_path / "model" / "weights")
    assert "content of" not in str(options("bundled", (("c", PruneVidConfig()),)))
    plugin = Path(__file__).parent / "plugins" / "spread.py"
    planned = VisualCotRun((), tmp_path, (), loading={"device": "cpu"}, plugins=(str(plugin),))
    assert planned.options([])["plugin: spread"] == digest(plugin)
    with pytest.raises(SetupError):
        options("no/such")
    with pytest.raises(ConfigError):
        options("/no/such")


def test_missing_images_are_named_counted_and_asked_once_they_are_there(
    root: Path, tmp_path: Path, capsys: Any, asked: list[str]
) -> None:
    other, out = Path(shutil.copytree(root, tmp_path / "other")), tmp_path / "run"
    image = other / "cot" / "shapes" / "1.png"
    hidden = image.rename(image.with_suffix(".away"))
    (other / "drawn" / "0.png").write_bytes(b"no image")
    assert evaluate(other, out, "--check") == 4 and not out.exists()
    said = capsys.readouterr()
    assert said.err.count("missing: ") == 4 and "no image of shapes/2" in said.err and "4 of 8" in said.out
    assert evaluate(other, out) == 0
    said = capsys.readouterr()
    assert "4 of 8 samples cannot be asked" in said.err and "shapes, baseline: only 2 of 4 samples" in said.out
    found, page = rows(out), (out / "report.md").read_text()
    assert (found["shapes", FEW]["answered"], found["shapes", FEW]["error_rate"]) == (2, 0.5)
    assert found["mean of sets", FEW]["answered"] == 4 and len(lines(out)) == 16
    table = [line.split(" | ") for line in page.splitlines() if line.startswith("| ") and "/" in line]
    assert table and all(cells[3].endswith(f" of {cells[2]}") for cells in table)
    assert len(asked) == 8
    with_error = [line["id"] for line in lines(out) if line["error"]]
    assert with_error == [0, 0, 1, 1, 2, 2, 3, 3]  # of colors two, of shapes two, each under both configs
    hidden.rename(image)
    assert evaluate(other, out) == 0
    assert len(asked) == 12 and rows(out)["shapes", FEW]["answered"] == 4


def test_a_broken_image_alone_is_no_score(
    root: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PruneVidQwen25VL, "from_pretrained", lambda *_, **__: pytest.fail("the model was loaded"))
    assert evaluate(root / "benchmark", tmp_path) == 2  # no such folder of data
    data = ["--data", str(root / "benchmark"), "--images", str(tmp_path), "--max_new_tokens", "8"]
    assert main(["eval", "visual-cot", *data, "--out", str(tmp_path / "run")]) == 2
    assert "holds no answer to score (the first error: no image of colors/0" in capsys.readouterr().err


def test_brief_greedy_and_limit_reach_the_model(root: Path, tmp_path: Path, monkeypatch: Any, asked: list[str]) -> None:
    given: list[dict[str, Any]] = []
    load = PruneVidQwen25VL.from_pretrained

    def watched(*where: Any, **how: Any) -> Any:
        model = load(*where, **how)
        generate = model.model.generate
        monkeypatch.setattr(model.model, "generate", lambda **named: given.append(named) or generate(**named))
        return model

    monkeypatch.setattr(PruneVidQwen25VL, "from_pretrained", watched)
    assert evaluate(root, tmp_path, "--brief", "--limit", "1", "--no_baseline") == 0
    assert len(given) == 2 and asked[0].endswith(f"?\n{BRIEF}") and BRIEF not in lines(tmp_path)[0]["question"]
    assert given[0]["do_sample"] is False and given[0]["repetition_penalty"] == 1 and given[0]["max_new_tokens"] == 8
    assert all(row["difference"] is None for row in rows(tmp_path).values())


def test_options_make_configs_with_names_that_say_so(root: Path, tmp_path: Path) -> None:
    words = ["--limit", "1", "--keep_ratio", "0.2", "--no_enable_stage1", "--max_pixels", "12544"]
    data = ["--data", str(root / "benchmark" / "shapes.json"), "--images", str(root), "--out", str(tmp_path)]
    assert main(["eval", "visual-cot", *data, "--configs", "paper,recommended", *words]) == 0
    changes = "enable_stage1=False keep_ratio=0.2 max_pixels=12544"
    names = ["baseline", f"paper {changes}", f"recommended {changes}"]
    configs = json.loads((tmp_path / "run.json").read_text())["configs"]
    assert [line["config"] for line in lines(tmp_path)] == list(configs) == names
    assert {config["max_pixels"] for config in configs.values()} == {12544}
    assert [configs[name]["enable_stage2"] for name in names] == [False, True, True]
    assert [configs[name]["selector"] for name in names[1:]] == ["prunevid", "dpp"]
    assert [line["tokens"]["after_stage2"] for line in lines(tmp_path)] == [16, 3, 3]


def test_methods_and_presets_run_by_their_names_several_in_one_run(root: Path, tmp_path: Path) -> None:
    """What GlimpsePrune's comparison scripts do: rivals beside it, the same pictures for all."""
    left = {  # of 16 tokens, before the decoder and after all stages
        "baseline": (16, 16), "fastv": (16, 8), "visionzip": (1, 1), "divprune": (1, 1), "cdpruner": (1, 1),
        "vscan": (2, 1), "merger.vscan": (2, 2), "sparsevlm_plus": (16, 3), "dart": (16, 3), "pyramiddrop": (16, 2),
        "visionzip cluster_ratio=0.5": (8, 8),
    }  # fmt: skip
    named = ",".join(name.replace(" ", "+") for name in left)
    data = ["--data", str(root / "benchmark" / "shapes.json"), "--images", str(root), "--out", str(tmp_path)]
    assert main(["eval", "visual-cot", *data, "--configs", named, "--limit", "1", "--max_new_tokens", "2"]) == 0
    found = {
        line["config"]: (line["tokens"]["after_stage1"], line["tokens"]["after_stage2"]) for line in lines(tmp_path)
    }
    assert found == left
    assert [row for row in rows(tmp_path) if row[0] == "shapes"] == [("shapes", name) for name in left]


def test_json_is_the_summary_and_nothing_else(root: Path, copy: Path, capsys: Any) -> None:
    assert evaluate(root, copy, "--json") == 0
    assert json.loads(capsys.readouterr().out) == json.loads((copy / "summary.json").read_text())
    assert evaluate(root, copy, "--json", "--check") == 0
    assert json.loads(capsys.readouterr().out) == {"samples": 8, "problems": []}
