"""Around a Ray cluster, without one: what it has room for, who is asked to join, what is said of other machines."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from prunevid_qwen.errors import ConfigError, SetupError
from prunevid_qwen.evaluation.engine.ray_cluster import Cluster, joined

ray = pytest.importorskip("ray", reason="the Ray engine needs the extra [ray]")
from prunevid_qwen.evaluation.engine.ray_data import _caught, _check_same, _installed  # noqa: E402


def test_a_bug_elsewhere_keeps_its_name_and_its_traceback() -> None:
    caught = _caught("made", lambda: {}["a bug"])
    error, where = ray.cloudpickle.loads(caught["fault"])
    assert repr(error) == """RuntimeError("KeyError: 'a bug'")""" and "Traceback" in where
    assert _caught("made", lambda: 7) == {"made": 7, "fault": None}


def test_machines_with_other_code_or_versions_are_named() -> None:
    same = dict(_installed())
    _check_same(tuple(same.items()))
    with pytest.raises(SetupError, match="has other code of prunevid_qwen: answers of both do not belong"):
        _check_same(tuple({**same, "code": "another"}.items()))
    with pytest.raises(SetupError, match=r"has torch 2\S+, not 1\.0: .*on every machine"):
        _check_same(tuple({**same, "torch": "1.0"}.items()))


def test_what_a_cluster_has_room_for() -> None:
    small, large = Cluster(2.0, 0, 2.0), Cluster(192.0, 16, 96.0)
    assert (small.device(None), small.replicas(None, "cpu"), small.reader_cpus()) == ("cpu", 1, 0.5)
    assert (large.device(None), large.replicas(None, "cuda"), large.reader_cpus()) == ("cuda", 16, 1.0)
    assert large.replicas(40, "cuda") == 40  # machines can be on their way
    assert large.device("cpu") == "cpu" and large.replicas(None, "cpu") == 1
    with pytest.raises(ConfigError, match="7 replicas leave no CPU to read videos with: 2 CPUs have room for 6"):
        small.replicas(7, "cpu")
    with pytest.raises(SetupError, match="has 2 CPUs, no GPU"):
        small.device("cuda")
    with pytest.raises(ConfigError, match="device is cuda or cpu, got 'cuda:1'"):
        large.device("cuda:1")


@pytest.mark.parametrize(
    ("address", "error", "said"),
    [
        ("ray://127.0.0.1:10001", ConfigError, "address of a Ray cluster is auto or host:port"),
        ("127.0.0.1:9", SetupError, "no Ray cluster at '127.0.0.1:9': .*refused\nStart one"),
    ],
)
def test_an_address_where_nobody_answers_is_named(address: str, error: type, said: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(error, match=said), joined(address):
        pytest.fail("joined")


def test_without_ray_the_extra_is_named(monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SetupError, match=r"pip install 'prunevid_qwen\[ray\]'"), joined():
        pytest.fail("joined")


def test_a_machine_with_another_plug_in_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("a = 1\n")
    plugins = (str(tmp_path / "mine.py"),)
    same = _installed(plugins)
    _check_same(same, plugins)
    (tmp_path / "mine.py").write_text("a = 2\n")
    with pytest.raises(SetupError, match="plugin: mine"):
        _check_same(same, plugins)
