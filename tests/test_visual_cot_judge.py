"""Judging stored answers through a stub endpoint: retries, cache, kills, failures, and what the tables say of them."""

from __future__ import annotations

import json
import re
import shutil
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from prunevid_qwen import PruneVidQwen25VL
from prunevid_qwen.cli import main
from prunevid_qwen.evaluation.tasks import judge as judging
from tests.patience import PATIENCE
from tests.stub_judge import StubJudge, by_equality
from tests.visual_cot_set import FEW, write_sets

pytest.importorskip("openai", reason="the judge is asked through openai: pip install '.[judge]'")


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with its answers, not judged."""
    root = tmp_path_factory.mktemp("sets")
    words = ["--data", str(write_sets(root)), "--images", str(root), "--out", str(root / "run")]
    assert main(["eval", "visual-cot", *words, "--config", str(root / "few.json"), "--max_new_tokens", "8"]) == 0
    return root / "run"


@pytest.fixture
def run(answered: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(answered, tmp_path / "run"))


def judge(run: Path, url: str, *words: str) -> int:
    base = ["--judge-only", "--judge-base-url", url, "--judge-model", "stub", "--out", str(run)]
    return main(["eval", "visual-cot", *base, *words])


def judged(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "judgements.jsonl").read_text(encoding="utf-8").splitlines()]


def rows(run: Path) -> dict[tuple[str, str], dict[str, Any]]:
    summary = json.loads((run / "summary.json").read_text())
    return {(row["set"], row["config"]): row for row in summary["rows"]}


def test_from_records_to_judged_tables_in_one_command(tmp_path: Path, capsys: Any) -> None:
    with StubJudge() as stub:
        words = ["--data", str(write_sets(tmp_path)), "--images", str(tmp_path), "--out", str(tmp_path / "run")]
        words += ["--judge-base-url", stub.url, "--judge-model", "stub", "--config", str(tmp_path / "few.json")]
        assert main(["eval", "visual-cot", *words]) == 0
    found = rows(tmp_path / "run")
    assert found["all samples", "baseline"]["score"] == 1
    pruned = found["all samples", FEW]
    assert pruned["score"] == pytest.approx((1 + pruned["exact"]) / 2) and pruned["exact"] < pruned["score"] < 1
    assert "Scored by: the judge stub at http://127.0.0.1" in (tmp_path / "run" / "report.md").read_text()
    asked = stub.requests[0]
    assert (asked["temperature"], asked["seed"], asked["model"]) == (0, 0, "stub")
    assert "score: x" in asked["messages"][0]["content"] and stub.keys == {"Bearer none"}
    assert "all samples" in capsys.readouterr().out


def test_equal_answers_are_judged_once_and_never_again(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PruneVidQwen25VL, "from_pretrained", lambda *_, **__: pytest.fail("a model was loaded"))
    answers = [json.loads(line) for line in (run / "answers.jsonl").read_text().splitlines()]
    different = {(line["question"], line["reference"], line["answer"]) for line in answers}
    assert len(different) < len(answers)
    with StubJudge() as stub:
        assert judge(run, stub.url) == 0
        assert len(stub.requests) == len(judged(run)) == len(different)
        before = (run / "summary.json").read_bytes()
        assert judge(run, stub.url) == 0
        assert len(stub.requests) == len(different) and (run / "summary.json").read_bytes() == before
        assert judge(run, stub.url + "/") == 0
        assert len(stub.requests) == len(different)
        assert judge(run, stub.url, "--judge-model", "another") == 0
        assert len(stub.requests) == 2 * len(different)


def test_failures_are_tried_again(run: Path) -> None:
    with StubJudge(failures=(500, 429, 503)) as stub:
        assert judge(run, stub.url, "--judge-workers", "1") == 0
        assert len(stub.requests) == len(judged(run)) + 3
    assert rows(run)["all samples", FEW]["unjudged"] == 0


def test_what_still_fails_counts_as_0_is_said_and_is_tried_by_the_next_run(run: Path, capsys: Any) -> None:
    with StubJudge(failures=(400,)) as stub:
        assert judge(run, stub.url, "--judge-workers", "1") == 0
        missing = [row for row in rows(run).values() if row["unjudged"]]
        assert missing and all(row["unparsed"] == 0 and row["score"] < 1 for row in missing)
        assert "have no score of the judge (0.0 % a reply without one, the others no reply): they count as 0" in (
            capsys.readouterr().out
        )
        before = len(stub.requests)
        assert judge(run, stub.url) == 0
        assert len(stub.requests) == before + 1 and not any(row["unjudged"] for row in rows(run).values())


def test_replies_without_a_score_count_as_0_and_are_said(run: Path) -> None:
    with StubJudge(lambda q, r, a: "score: ten" if q.startswith("What color") else by_equality(q, r, a)) as stub:
        assert judge(run, stub.url) == 0
        count = len(stub.requests)
        assert judge(run, stub.url) == 0
        assert len(stub.requests) == count  # at temperature 0 the reply would be the same
    row = rows(run)["shapes", "baseline"]
    assert (row["score"], row["unparsed"], row["unjudged"], row["exact"]) == (0, 1, 1, 1)
    assert rows(run)["colors", "baseline"]["score"] == 1
    page = (run / "report.md").read_text()
    assert "**shapes, baseline: 100.0 % of the answers have no score of the judge (100.0 % a reply without one" in page


def test_a_kill_while_judging_costs_the_torn_line_alone(run: Path, tmp_path: Path) -> None:
    with StubJudge() as stub:
        assert judge(run, stub.url) == 0
        whole, count = {name: (run / name).read_bytes() for name in ("report.md", "summary.csv")}, len(stub.requests)
        path = run / "judgements.jsonl"
        parts = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(parts[:3]) + parts[3][:20])
        for name in whole:
            (run / name).unlink()
        assert judge(run, stub.url) == 0
        assert len(stub.requests) == count + len(parts) - 3
    assert {name: (run / name).read_bytes() for name in whole} == whole


def test_ctrl_c_while_judging_keeps_what_is_judged(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pressed = threading.Event()

    def slow(question: str, reference: str, answer: str) -> str:
        if len(stub.requests) > 2:
            pressed.wait(PATIENCE)  # on its way when Ctrl-C comes
        return by_equality(question, reference, answer)

    def interrupted(requests: Any) -> Any:
        for request in requests[:2]:
            request.result()
            yield request
        pressed.set()
        raise KeyboardInterrupt

    with StubJudge(slow) as stub:
        with monkeypatch.context() as patch:
            patch.setattr(judging, "as_completed", interrupted)
            assert judge(run, stub.url, "--judge-workers", "1") == 130
        kept = judged(run)
        assert 2 <= len(kept) == len(stub.requests)
        assert judge(run, stub.url) == 0
        assert len(stub.requests) == len(judged(run)) > len(kept) and judged(run)[: len(kept)] == kept


def test_an_endpoint_that_is_not_there_says_so_and_loses_nothing(run: Path, capsys: Any) -> None:
    before = {name: (run / name).read_bytes() for name in ("answers.jsonl", "report.md")}
    with StubJudge() as stub:
        url = stub.url
    assert judge(run, url, "--judge-retries", "0") == 3
    said = capsys.readouterr().err
    assert f"no judge answers at {url}" in said and "--judge-only goes on from here" in said
    with StubJudge(failures=(401,)) as stub:
        assert judge(run, stub.url, "--judge-workers", "1") == 3
        assert "--judge-api-key-file" in capsys.readouterr().err
        assert judge(run, stub.url.removesuffix("/v1"), "--judge-workers", "1") == 3
        assert "it ends with /v1" in capsys.readouterr().err
    assert {name: (run / name).read_bytes() for name in before} == before


def test_an_endpoint_that_fails_always_is_given_up(run: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "_HOPELESS", 3)
    with StubJudge(failures=(400,) * 50) as stub:
        assert judge(run, stub.url, "--judge-workers", "1") == 3
        assert len(stub.requests) < 10
    assert "failed the first 3 requests" in capsys.readouterr().err


def test_the_key_comes_from_a_file_and_is_written_nowhere(run: Path, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("secret-1234\n")
    with StubJudge() as stub:
        assert judge(run, stub.url, "--judge-api-key-file", str(tmp_path / "key")) == 0
    assert stub.keys == {"Bearer secret-1234"}
    assert not [path for path in run.iterdir() if "secret-1234" in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--scorer", "judge"], "a judge needs --judge_base_url"),
        (["--judge-base-url", "http://localhost/v1"], "a judge needs --judge_model"),
        (["--judge-base-url", "localhost:8000", "--judge-model", "m"], "is an address such as"),
        (["--scorer", "bleu"], "scorer is one of judge, exact, contained"),
        (["--judge-base-url", "http://a/v1", "--judge-model", "m", "--judge-api-key-file", "none"], "cannot read"),
        (["--config", "paper", "--configs", "paper"], "twice"),
        (["--judge-only", "--restart"], "--restart throws away"),
        (["--judge-only"], "no run.json in"),
        ([], "pass --data FILE"),
    ],
)
def test_bad_options_end_with_2(words: list[str], said: str, tmp_path: Path, capsys: Any) -> None:
    assert main(["eval", "visual-cot", "--out", str(tmp_path / "none"), *words]) == 2
    assert said in re.sub(r"\s+", " ", capsys.readouterr().err)


def test_without_the_client_it_is_said_before_any_model_is_loaded(run: Path, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    assert judge(run, "http://127.0.0.1:1/v1") == 3
    assert "pip install 'prunevid_qwen[judge]'" in capsys.readouterr().err
