"""`prunevid serve`: what is wrong is told before a model is loaded, and SIGTERM answers what is inside."""

from __future__ import annotations

import json
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from prunevid_qwen.cli import main
from prunevid_qwen.serve import listening
from research import serve_load


@pytest.mark.parametrize(
    "words",
    [
        ["--keep_ratio", "25"], ["--config", "nothing"], ["--max_batch", "0"], ["--media_root", "/nowhere"],
        ["--replicas", "3-2"], ["--replicas", "many"], ["--api_key_file", "/nowhere"], ["--api_key", ""],
        ["--api_key", "a", "--api_key_file", "b"], ["--engine", "spark"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_what_is_wrong_is_told_before_a_model_is_loaded(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", *words, "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["exit_code"] == 2


def test_a_port_that_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["serve", "--port", port]) == 3
    assert port in capsys.readouterr().err


def test_packages_that_are_missing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(listening, "NEEDED", {"no_such_module": "no-such-package"})
    assert main(["serve"]) == 3
    assert "no-such-package" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False),
     ("10.0.0.1", False), ("example.org", False)],
)  # fmt: skip
def test_who_gets_in(host: str, local: bool) -> None:
    assert listening.ListensAt(host).local is local


@pytest.mark.nightly
def test_sigterm_answers_what_is_inside_and_takes_no_more(tmp_path: Path) -> None:
    with serve_load.serving("--max_batch", "1") as server:
        bodies = serve_load.bodies("paper")

        def ask(body: str) -> int:
            head = {"content-type": "application/json"}
            return httpx.post(f"{server.url}/chat/completions", content=body, headers=head, timeout=60).status_code

        with ThreadPoolExecutor(12) as pool:
            inside = [pool.submit(ask, body) for body in bodies]
            while server.health()["inside"] < 12:
                assert not all(each.done() for each in inside), "they were answered before the signal"
            server.process.send_signal(signal.SIGTERM)
            assert [each.result() for each in inside] == [200] * 12
        assert server.process.wait(60) == 0
    with pytest.raises(httpx.ConnectError):
        server.health()
