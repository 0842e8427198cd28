"""The folder of a run: lines outlive kills, full disks and odd names; another run, or another process, is refused."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock, Timeout

from prunevid_qwen import ConfigError
from prunevid_qwen.errors import SetupError
from prunevid_qwen.evaluation.store import (
    RECORD,
    Lines,
    RunFolder,
    keep_lines,
    pack,
    plugin_options,
    read_lines,
    replace,
    run_folder,
    run_hash,
    unpack,
)

FILES = ("answers*.jsonl", "summary.json")


def begun(path: Path, options: Any = None, **more: Any) -> dict[str, Any]:
    return RunFolder(path, FILES).begin(options or {"frames": 8}, {"what": "a test"}, **more)


# ---- lines


def test_every_cut_of_a_file_leaves_its_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with Lines(path) as lines:
        lines.add({"id": "é1"})
        lines.add({"id": "é2"}, {"id": "é3"})
    whole = path.read_bytes()
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        count = whole[:cut].count(b"\n")
        assert [line["id"] for line in read_lines(path)] == ["é1", "é2", "é3"][:count]
        with Lines(path) as lines:
            lines.add({"id": "é9"})
        assert [line["id"] for line in read_lines(path)] == [*["é1", "é2", "é3"][:count], "é9"]
        path.write_bytes(whole[:cut])
        assert len(keep_lines(path)) == count and path.read_bytes() == whole[: whole[:cut].rfind(b"\n") + 1]


def test_lines_that_are_kept_keep_their_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"a":1}\n\n{"a": 2}\n{"a":   3}\n{"a"')
    assert keep_lines(path, lambda line: line["a"] != 2) == [{"a": 1}, {"a": 3}]
    assert path.read_text() == '{"a":1}\n{"a":   3}\n'
    assert keep_lines(tmp_path / "none") == read_lines(tmp_path / "none") == []


@pytest.mark.parametrize("text", ["{broken", "[1]", "\xff"])
def test_a_line_that_is_none_is_named_by_file_and_number(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n\n' + text.encode("latin-1") + b"\n")
    for read in (read_lines, keep_lines):
        with pytest.raises(ConfigError, match=r"a\.jsonl:3"):
            read(path)


def test_one_process_at_a_time_writes_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with Lines(path) as lines:
        lines.add({"a": 1})
        with pytest.raises(ConfigError, match=r"a\.jsonl: take a share"), Lines(path, "take a share"):
            pass
        with pytest.raises(ConfigError, match=r"a\.jsonl"):
            keep_lines(path)  # it would take the file from under the writer
        with Lines(tmp_path / "b.jsonl"):
            pass
    with Lines(path) as lines:
        lines.add({"a": 2})
    assert [line["a"] for line in read_lines(path)] == [1, 2]


def test_a_name_that_is_no_utf_8_is_stored_and_comes_back(tmp_path: Path) -> None:
    """Python reads such bytes of a file's name as half a surrogate pair, which UTF-8 does not have."""
    path, name = tmp_path / "a.jsonl", os.fsdecode(b"caf\xe9 \xf0.mp4")
    with Lines(path) as lines:
        lines.add({"media": name})
    assert read_lines(path) == [{"media": name}] and path.read_text(encoding="utf-8")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_said_and_lets_the_lock_go(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with pytest.raises(SetupError, match=r"a\.jsonl"), Lines(path) as lines:
        lines._file.close()
        lines._file = open("/dev/full", "ab")  # noqa: SIM115
        lines.add({"a": 1})
    with Lines(path) as lines:
        lines.add({"a": 1})
    assert len(read_lines(path)) == 1


def test_what_is_added_is_synced_before_add_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, sizes = tmp_path / "a.jsonl", []
    monkeypatch.setattr(os, "fsync", lambda number: sizes.append(os.fstat(number).st_size))
    with Lines(path) as lines:
        lines.add({"a": 1})
        lines.add({"a": 2}, {"a": 3})
    assert sizes == [path.stat().st_size // 3, path.stat().st_size]


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    replace(path, b"old")

    def torn(file: Any) -> None:
        file.write(b"ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replace(path, torn)
    assert path.read_bytes() == b"old"
    replace(path, lambda file: file.write(b"new"))
    assert path.read_bytes() == b"new"


def test_packed_lines_are_sorted_and_come_back(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text('{"n": 2}\n{"n": 1, "b": 0}\n{"n": 1, "a": 0}\n{"n"')
    packed = pack(path, lambda line: line["n"])
    assert packed == tmp_path / "answers.jsonl.xz" and not path.exists()
    unpack(path)
    assert path.read_text() == '{"n": 1, "a": 0}\n{"n": 1, "b": 0}\n{"n": 2}\n' and not packed.exists()
    unpack(path)
    assert path.exists()


# ---- the record


def test_another_run_is_refused_by_its_first_difference(tmp_path: Path) -> None:
    record = begun(tmp_path, {"frames": 8, "loading: dtype": "bfloat16"})
    assert begun(tmp_path, {"frames": 8, "loading: dtype": "bfloat16"}) == record
    with pytest.raises(ConfigError, match="frames was 8, is now 16"):
        begun(tmp_path, {"frames": 16, "loading: dtype": "bfloat16"})
    with pytest.raises(ConfigError, match=r"loading: dtype was 'bfloat16', is now None"):
        begun(tmp_path, {"frames": 8})
    methods = [{"name": "a", "levers": [1]}, {"name": "b"}]
    begun(tmp_path / "m", {"methods": methods})
    with pytest.raises(ConfigError, match=r"methods .*only then: b; only now: c; changed: a"):
        begun(tmp_path / "m", {"methods": [{"name": "a"}, {"name": "c"}]})


@pytest.mark.parametrize("changed", ["code", "versions"])
def test_other_code_or_versions_are_another_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str) -> None:
    before = begun(tmp_path), run_hash({}, {})
    if changed == "code":
        monkeypatch.setattr(run_folder, "code_digest", lambda: "other code")
    else:
        monkeypatch.setattr(run_folder, "versions", lambda: {"torch": "1.0"})
    with pytest.raises(ConfigError):
        begun(tmp_path)
    assert run_hash({}, {}) != before[1]
    assert RunFolder(tmp_path).record("x") == before[0]  # it can still be read


def test_the_hash_is_of_options_and_config(tmp_path: Path) -> None:
    hashes = [run_hash({"frames": 8}, {}), run_hash({"frames": 16}, {}), run_hash({"frames": 8}, {"keep_ratio": 0.4})]
    assert len(set(hashes)) == 3 and run_hash({"frames": 8}, {}) == hashes[0]
    assert run_hash({}, {"a": 1, "b": 2}) == run_hash({}, {"b": 2, "a": 1})


def test_an_option_that_grows_may_be_larger_and_not_smaller(tmp_path: Path) -> None:
    begun(tmp_path, {"videos": 8}, grows=["videos"])
    assert begun(tmp_path, {"videos": 9}, grows=["videos"])["options"] == {"videos": 9}
    assert RunFolder(tmp_path).record("x")["options"] == {"videos": 9}
    with pytest.raises(ConfigError, match="videos was 9, is now 8"):
        begun(tmp_path, {"videos": 8}, grows=["videos"])


def test_configs_are_added_and_not_changed(tmp_path: Path) -> None:
    begun(tmp_path, configs={"paper": {"keep_ratio": 0.4}})
    record = begun(tmp_path, configs={"baseline": {"keep_ratio": 1.0}})
    assert list(record["configs"]) == ["paper", "baseline"] and RunFolder(tmp_path).record("x") == record
    for changed in ({"keep_ratio": 0.2}, {}):
        with pytest.raises(ConfigError, match=r"config 'paper': keep_ratio was 0.4"):
            begun(tmp_path, configs={"paper": changed})
    assert begun(tmp_path, configs={"paper": {"keep_ratio": 0.4}}) == record


def test_lines_without_a_record_are_refused_and_restart_throws_all_away(tmp_path: Path) -> None:
    (tmp_path / "answers-1-of-2.jsonl").write_text("{}\n")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ConfigError, match=r"answers-1-of-2\.jsonl"):
        begun(tmp_path)
    begun(tmp_path, restart=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", RECORD, "run.lock"]


def test_a_run_beside_its_file_of_lines_is_named_by_that(tmp_path: Path) -> None:
    out = tmp_path / "answers"
    out.write_text("{}\n")
    folder = RunFolder(tmp_path / "answers.run", shown=out)
    with pytest.raises(ConfigError, match=r"answers exists, but no .*answers\.run.*another file"):
        folder.begin({}, {})
    folder.begin({"a": 1}, {}, restart=True)
    assert not out.exists()
    with pytest.raises(ConfigError, match=r"answers holds another run \(a was 1"):
        folder.begin({}, {})


def test_a_restart_does_not_take_the_file_from_a_process_that_writes(tmp_path: Path) -> None:
    begun(tmp_path)
    (tmp_path / "summary.json").touch()
    with Lines(tmp_path / "answers-0-of-2.jsonl") as lines:
        lines.add({"a": 1})
        with pytest.raises(ConfigError, match=r"answers-0-of-2\.jsonl"):
            begun(tmp_path, restart=True)
        lines.add({"a": 2})
    assert len(read_lines(tmp_path / "answers-0-of-2.jsonl")) == 2 and (tmp_path / "summary.json").exists()
    begun(tmp_path, restart=True)
    assert list(RunFolder(tmp_path, FILES).found()) == []


def test_folders_that_cannot_be_made_or_hold_no_run_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="file"):
        begun(tmp_path / "file")
    for folder in (tmp_path / "file", tmp_path / "none"):
        with pytest.raises(ConfigError, match=r"run\.json.*`prunevid eval run`"):
            RunFolder(folder).record("prunevid eval run")
    (tmp_path / RECORD).write_text('{"options"')
    with pytest.raises(ConfigError, match=r"run\.json"):
        RunFolder(tmp_path).record("prunevid eval run")


def test_two_processes_do_not_begin_a_folder_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    acquire = FileLock.acquire
    monkeypatch.setattr(FileLock, "acquire", lambda self: acquire(self, blocking=False))  # says what it would wait for
    with FileLock(tmp_path / "run.lock"), ThreadPoolExecutor(1) as other:
        with pytest.raises(Timeout):
            other.submit(begun, tmp_path).result()
        assert not (tmp_path / RECORD).exists()
    begun(tmp_path)
    assert json.loads((tmp_path / RECORD).read_text())["what"] == "a test"


# ---- plug-ins


def test_a_plug_in_counts_by_its_bytes_or_its_version(tmp_path: Path) -> None:
    assert plugin_options(()) == {}
    (tmp_path / "mine.py").write_text("a = 1\n")
    before = plugin_options([str(tmp_path / "mine.py")])
    (tmp_path / "mine.py").write_text("a = 2\n")
    after = plugin_options([str(tmp_path / "mine.py")])
    assert before.keys() == after.keys() == {"plugin: mine"} and before != after
    assert plugin_options(["numpy"]) == {"plugin: numpy": np.__version__}
    with pytest.raises(ConfigError):
        plugin_options([str(tmp_path / "none.py")])
