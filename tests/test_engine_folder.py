"""The folder of a run: lines outlive kills, full disks and odd names; another run, or another process, is refused."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock, Timeout

from prunevid_qwen import ConfigError
from prunevid_qwen.errors import SetupError
from prunevid_qwen.evaluation.engine import folder
from prunevid_qwen.evaluation.engine.folder import Part, answer_files, answered, begin, recorded, whole_lines

CONFIGS = {"paper": {"keep_ratio": 0.4}}


def opened(folder: Path, options: Any = None, configs: Any = None, **more: Any) -> dict[str, str]:
    return begin(folder, options or {"frames": 8}, configs or CONFIGS, {"what": "a test"}, **more)


def line(hashes: dict[str, str], number: int, config: str = "paper", error: str | None = None) -> dict[str, Any]:
    return {"id": f"é{number}", "config": config, "error": error, "run": hashes[config]}


def test_lines_survive_a_kill_in_the_middle_of_one(tmp_path: Path) -> None:
    hashes = opened(tmp_path)
    with Part.of(tmp_path) as part:
        part.add(line(hashes, 1))
        part.add(line(hashes, 2, error="broken"))
    path = tmp_path / "answers.jsonl"
    whole = path.read_bytes()
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        again = opened(tmp_path)
        done = answered(tmp_path, again)
        with Part.of(tmp_path) as part:
            part.add(line(hashes, 9))
        lines = whole_lines(path)
        assert lines[-1]["id"] == "é9" and len(lines) == whole[:cut].count(b"\n") + 1
        assert done == ({("paper", "é1")} if whole[:cut].count(b"\n") else set())


def test_shards_write_apart_and_are_read_together(tmp_path: Path) -> None:
    hashes = opened(tmp_path)
    for number in (0, 1):
        with Part.of(tmp_path, (number, 2)) as part:
            part.add(line(hashes, number))
    with Part.of(tmp_path) as part:
        part.add(line(hashes, 5))
    assert [path.name for path in answer_files(tmp_path)] == [
        "answers-0-of-2.jsonl",
        "answers-1-of-2.jsonl",
        "answers.jsonl",
    ]
    assert answered(tmp_path, hashes) == {("paper", f"é{number}") for number in (0, 1, 5)}


def test_two_processes_do_not_write_one_file(tmp_path: Path) -> None:
    opened(tmp_path)
    with (
        Part.of(tmp_path),
        pytest.raises(ConfigError, match=r"another process is writing .*--shard 0/2"),
        Part.of(tmp_path),
    ):
        pass
    with Part.of(tmp_path), Part.of(tmp_path, (1, 2)):
        pass


def test_another_run_is_refused_by_its_first_difference(tmp_path: Path) -> None:
    hashes = opened(tmp_path)
    with Part.of(tmp_path) as part:
        part.add(line(hashes, 1))
    with pytest.raises(ConfigError, match="frames was 8, is now 16"):
        opened(tmp_path, {"frames": 16})
    with pytest.raises(ConfigError, match=r"'paper' with keep_ratio=0.4, now it is 0.2"):
        opened(tmp_path, configs={"paper": {"keep_ratio": 0.2}})
    with pytest.raises(ConfigError, match=r"'paper' with keep_ratio=0.4, now it is None"):
        opened(tmp_path, configs={"paper": {}})
    assert opened(tmp_path) == hashes and recorded(tmp_path, "x")["what"] == "a test"
    assert answered(tmp_path, hashes) == {("paper", "é1")}


def test_a_config_can_be_added_and_keeps_the_others(tmp_path: Path) -> None:
    hashes = opened(tmp_path)
    with Part.of(tmp_path) as part:
        part.add(line(hashes, 1))
    more = opened(tmp_path, configs={"baseline": {"keep_ratio": 1.0}})
    assert list(recorded(tmp_path, "x")["configs"]) == ["paper", "baseline"]
    assert opened(tmp_path)["paper"] == hashes["paper"] != more["baseline"]
    assert answered(tmp_path, more) == set()  # of the configs that are asked now


def test_lines_of_another_hash_are_refused(tmp_path: Path) -> None:
    hashes = opened(tmp_path)
    with Part.of(tmp_path) as part:
        part.add({**line(hashes, 1), "run": "0123456789abcdef"})
    with pytest.raises(ConfigError, match=r"answers\.jsonl:1 is of another run of 'paper' \(hash 0123456789ab"):
        answered(tmp_path, hashes)


@pytest.mark.parametrize("text", ["{broken\n", "[1]\n", '{"id": 1}\n'])
def test_a_line_that_is_none_is_named(tmp_path: Path, text: str) -> None:
    hashes = opened(tmp_path)
    (tmp_path / "answers.jsonl").write_text(json.dumps(line(hashes, 1)) + "\n" + text)
    with pytest.raises(ConfigError, match=r"answers\.jsonl:2 is no"):
        answered(tmp_path, hashes)


def test_answers_without_a_record_are_refused_and_restart_throws_all_away(tmp_path: Path) -> None:
    (tmp_path / "answers-1-of-2.jsonl").write_text("{}\n")
    with pytest.raises(ConfigError, match=r"holds answers, but no run\.json"):
        opened(tmp_path)
    hashes = opened(tmp_path, restart=True)
    assert answer_files(tmp_path) == [] and answered(tmp_path, hashes) == set()
    with pytest.raises(ConfigError, match=r"no run\.json in .*`prunevid eval run`"):
        recorded(tmp_path / "other", "prunevid eval run")


def test_an_option_that_is_no_longer_given_is_another_run(tmp_path: Path) -> None:
    """Configs may be added, so nothing else would notice: both would stand in one table."""
    opened(tmp_path, {"frames": 8, "loading: dtype": "bfloat16"})
    with pytest.raises(ConfigError, match=r"loading: dtype was 'bfloat16', is now None"):
        opened(tmp_path, {"frames": 8}, configs={"baseline": {"keep_ratio": 1.0}})


def test_a_restart_does_not_take_the_file_from_a_process_that_writes(tmp_path: Path) -> None:
    hashes = opened(tmp_path)
    with Part.of(tmp_path, (0, 2)) as part:
        part.add(line(hashes, 1))
        with pytest.raises(ConfigError, match=r"another process is writing .*answers-0-of-2\.jsonl: end it"):
            opened(tmp_path, restart=True)
        part.add(line(hashes, 2))
    assert answered(tmp_path, hashes) == {("paper", "é1"), ("paper", "é2")}
    (tmp_path / "report.md").touch()
    opened(tmp_path, restart=True)
    assert answer_files(tmp_path) == [] and not (tmp_path / "report.md").exists()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"cannot make the folder .*file.*: pass another"):
        opened(tmp_path / "file")


def test_a_name_that_is_no_utf_8_is_stored_and_comes_back(tmp_path: Path) -> None:
    """Python reads such bytes of a file's name as half a surrogate pair, which UTF-8 does not have."""
    hashes, name = opened(tmp_path), os.fsdecode(b"caf\xe9 \xf0.mp4")
    with Part.of(tmp_path) as part:
        part.add({**line(hashes, 1), "media": name})
    (stored,) = whole_lines(tmp_path / "answers.jsonl")
    assert stored["media"] == name and (tmp_path / "answers.jsonl").read_text(encoding="utf-8")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_said_and_lets_the_lock_go(tmp_path: Path) -> None:
    hashes = opened(tmp_path)
    with pytest.raises(SetupError, match=r"cannot write .*answers\.jsonl \(No space left"), Part.of(tmp_path) as part:
        part._file.close()
        part._file = open("/dev/full", "ab")  # noqa: SIM115
        part.add(line(hashes, 1))
    with Part.of(tmp_path) as part:
        part.add(line(hashes, 1))
    assert len(whole_lines(tmp_path / "answers.jsonl")) == 1


def test_the_hash_is_of_options_config_versions_and_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines of two folders that were put together are told apart by it alone."""
    found = [
        opened(tmp_path / "a"),
        opened(tmp_path / "b", {"frames": 16}),
        opened(tmp_path / "c", configs={"paper": {"keep_ratio": 0.2}}),
    ]
    with monkeypatch.context() as patch:
        patch.setattr(folder, "code_digest", lambda: "other code")
        found.append(opened(tmp_path / "d"))
    monkeypatch.setattr(folder, "versions", lambda: {"torch": "1.0"})
    found.append(opened(tmp_path / "e"))
    assert len({hashes["paper"] for hashes in found}) == 5


def test_every_line_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashes, sizes = opened(tmp_path), []
    monkeypatch.setattr(os, "fsync", lambda number: sizes.append(os.fstat(number).st_size))
    with Part.of(tmp_path) as part:
        for number in (1, 2):
            part.add(line(hashes, number))
    whole = (tmp_path / "answers.jsonl").stat().st_size
    assert sizes == [whole // 2, whole]


def test_two_processes_do_not_begin_a_folder_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    acquire = FileLock.acquire
    monkeypatch.setattr(FileLock, "acquire", lambda self: acquire(self, blocking=False))  # says what it would wait for
    with FileLock(tmp_path / "run.lock"), ThreadPoolExecutor(1) as other:
        with pytest.raises(Timeout):
            other.submit(opened, tmp_path).result()
        assert not (tmp_path / "run.json").exists()
    opened(tmp_path)
    assert (tmp_path / "run.json").exists()
