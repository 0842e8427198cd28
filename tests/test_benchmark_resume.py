"""A kill, Ctrl-C, more workers, shares of a run, broken videos: the same tables to the byte, and nothing lost."""

from __future__ import annotations

import json
import os
import random
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from prunevid_qwen.cli import main
from prunevid_qwen.evaluation.engine.storing import answer_files
from prunevid_qwen.evaluation.store import read_lines
from tests.benchmark_folders import Clips, mvbench
from tests.benchmark_runs import DOZEN, ROOT, SMALL, lines, row, run, tables
from tests.patience import PATIENCE

# ---- kills


_STOPPED = """
import json, multiprocessing, os, signal, sys
from prunevid_qwen.cli import main
from prunevid_qwen.evaluation.store import Lines

at, share, note, number = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3], int(sys.argv[4])
model = sys.argv[5]
add, count = Lines.add, 0

def dying(self, line):
    global count
    count += 1
    if count < at:
        return add(self, line)
    text = json.dumps(line, ensure_ascii=False).encode() + b"\\n"
    self._file.write(text[: int(share * len(text))])
    self._file.flush()
    with open(note, "w") as file:
        json.dump([child.pid for child in multiprocessing.active_children()], file)
    if number == signal.SIGKILL:
        os.kill(os.getpid(), number)
    os.killpg(0, number)  # as a terminal does: to the readers too

if __name__ == "__main__":
    for each, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, 0), (signal.SIGHUP, 0)):
        signal.signal(each, handler)  # as in a terminal: a job in the background finds SIGINT ignored
    Lines.add = dying
    if model == "stub":
        import pytest
        from tests import stub_answers
        stub_answers.install(pytest.MonkeyPatch())
    sys.exit(main(["eval", "run", *sys.argv[6:]]))
"""


def stopped(dozen: Path, tmp_path: Path, at: int, share: float, number: int, workers: int, model: str = "stub") -> Any:
    """Run until line ``at``, of which ``share`` is written, then send a signal."""
    (tmp_path / "stopped.py").write_text(_STOPPED)
    words = ["--dataset", "mvbench", "--data", str(dozen), "--out", str(tmp_path / "run"), *DOZEN]
    told = [str(at), str(share), str(tmp_path / "pids"), str(int(number)), model]
    return subprocess.run(
        [sys.executable, str(tmp_path / "stopped.py"), *told, *words, "--workers", str(workers)],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
        start_new_session=True,
    )  # fmt: skip


def all_readers_ended(tmp_path: Path) -> int:
    """Wait until the readers have noticed that their parent is gone; return how many there were."""
    children = json.loads((tmp_path / "pids").read_text())
    for pid in children:
        try:
            watched = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        assert select.select([watched], [], [], PATIENCE)[0], f"reader {pid} outlived its parent"
    return len(children)


@pytest.mark.parametrize(
    ("model", "workers", "then"),
    [
        pytest.param("bundled", 2, 1, marks=pytest.mark.nightly),
        pytest.param("stub", 1, 0, marks=pytest.mark.nightly),
        pytest.param("stub", 3, 2, marks=pytest.mark.nightly),
    ],
)
def test_a_kill_at_a_random_point_costs_time_alone(
    dozen: Path, tmp_path: Path, request: pytest.FixtureRequest, model: str, workers: int, then: int
) -> None:
    """Killed within a line with SIGKILL, resumed with another number of workers: the same bytes, no process left."""
    whole = request.getfixturevalue("stubbed" if model == "stub" else "answered")
    drawn = random.Random(workers)
    at, share, out = drawn.randrange(1, 13), drawn.random(), tmp_path / "run"
    done = stopped(dozen, tmp_path, at, share, signal.SIGKILL, workers, model)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len(lines(out)) == at - 1 and all_readers_ended(tmp_path) == workers
    if model == "stub":
        request.getfixturevalue("stub")
    assert run(dozen, out, *DOZEN, workers=then) == 0
    assert tables(out) == tables(whole), (at, share)
    stored = [(line["config"], line["id"]) for line in lines(out)]
    assert len(stored) == len(set(stored)) == 12


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("at", "number", "workers"),
    [
        (1, signal.SIGINT, 1),
        pytest.param(8, signal.SIGTERM, 2, marks=pytest.mark.nightly),
        pytest.param(5, signal.SIGHUP, 1, marks=pytest.mark.nightly),
    ],
)
def test_a_signal_ends_cleanly_and_loses_nothing(
    dozen: Path, stubbed: Path, stub: None, tmp_path: Path, at: int, number: int, workers: int
) -> None:
    done = stopped(dozen, tmp_path, at, 0.0, number, workers)
    assert done.returncode == 128 + number and "Traceback" not in done.stderr, done.stderr
    assert "interrupted" in done.stderr and "goes on where" in done.stderr
    assert len(lines(tmp_path / "run")) == at - 1 and all_readers_ended(tmp_path) == workers
    assert run(dozen, tmp_path / "run", *DOZEN) == 0 and tables(tmp_path / "run") == tables(stubbed)


def test_shards_in_any_order_give_the_same_tables(
    dozen: Path, stubbed: Path, stub: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (2, 0, 1):
        assert run(dozen, tmp_path, *DOZEN, "--shard", f"{number}/3") == 0
    assert f"prunevid eval tables {tmp_path}" in capsys.readouterr().err
    shares = [read_lines(path) for path in answer_files(tmp_path)]
    assert [len(share) for share in shares] == [4, 4, 4]
    assert main(["eval", "tables", str(tmp_path)]) == 0 and tables(tmp_path) == tables(stubbed)


# ---- broken data


@pytest.mark.nightly
def test_five_per_cent_of_broken_videos_are_named_passed_and_said(
    stub: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = mvbench(tmp_path / "data", Clips(tmp_path / "clips"))
    gone, torn = data / "video/star/Charades_v1_480/Z1.mp4", data / "video/perception/videos/action_count_1.mp4"
    whole = torn.read_bytes()
    kept = gone.read_bytes()
    gone.unlink()
    torn.write_bytes(whole[:200])
    broken = {
        "action_sequence/0",
        "action_prediction/0",
        "object_interaction/0",
        "action_count/0",
    }  # Z1 is in three tasks
    assert main(["eval", "check", "mvbench", str(data)]) == 4
    said = capsys.readouterr().out
    assert f"missing: {gone}" in said and f"unreadable: {torn}" in said
    assert run(data, tmp_path / "run", *SMALL, workers=1) == 0
    told = capsys.readouterr()
    assert f"missing: {gone}" in told.err and "prunevid eval check mvbench" in told.err
    assert "of 36/40" in told.out and row(tmp_path / "run", "paper")["error_rate"] == pytest.approx(0.1)
    failed = {line["id"] for line in lines(tmp_path / "run") if line["error"]}
    assert failed == broken
    gone.write_bytes(kept)  # what was missing is asked when it is there, in the same run
    torn.write_bytes(whole)
    assert run(data, tmp_path / "run", *SMALL) == 0
    assert (
        row(tmp_path / "run", "paper")["answered"] == 40 and "of 36/40" not in (tmp_path / "run/report.md").read_text()
    )
    assert len(lines(tmp_path / "run")) == 80 + 2 * 4
