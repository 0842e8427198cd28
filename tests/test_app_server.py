"""The page asks a running server: the same answers, receipts and pictures as of a model in its own process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from prunevid_qwen import PrunedVLM, get_config
from prunevid_qwen.app.from_server import FromServer
from prunevid_qwen.app.side_by_side import PRUNED, UNPRUNED, Asked, SideBySide, Telling
from prunevid_qwen.errors import ConfigError, SetupError
from tests.serving import CLIPS, NAMES, QUESTIONS, Served, engine, running


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with running(engine(PrunedVLM("bundled")), key="secret") as found:
        yield found


def asked() -> Asked:
    return Asked(
        QUESTIONS[0], get_config("paper").replace(keep_ratio=0.3, max_frames=8), CLIPS / NAMES[0], preset="paper"
    )


def test_words_come_one_by_one(server: Served) -> None:
    told = list[Any]()
    question = asked()
    answer = FromServer(server.url, "secret")._answer(
        question, PRUNED, question.config, threading.Event(), Telling(told.append)
    )
    texts = [each.texts.get(PRUNED, "") for each in told]
    assert texts[0] == "" and texts[-1] == answer["answer"] != "" and len(texts) > 3
    assert answer.kept.steps and answer["stats"]["config"]["keep_ratio"] == 0.3


@pytest.mark.nightly
def test_what_the_page_shows_is_what_a_model_here_would_say(server: Served) -> None:
    seen: list[Any] = [list(each.ask(asked(), threading.Event())) for each in (
        FromServer(server.url, "secret"), SideBySide(PrunedVLM("bundled", video_cache_bytes=2**28)))]  # fmt: skip
    remote, here = seen[0][-1], seen[1][-1]
    assert remote.ended and not remote.stopped and not remote.notes and remote.texts == here.texts
    for side in (PRUNED, UNPRUNED):
        own, theirs = (each.answers[side]["stats"] for each in (here, remote))
        assert theirs["tokens"] == own["tokens"] and len(theirs["input"]["videos"][0]["timestamps"]) == 8
    assert remote.overlay == here.overlay and remote.page is not None


def test_stopped_and_refused(server: Served) -> None:
    answers, stop = FromServer(server.url, "secret"), threading.Event()
    stop.set()
    assert list(answers.ask(Asked("?", get_config("paper"), CLIPS / NAMES[0]), stop))[-1].stopped
    refused = Asked("?", get_config("paper").replace(tau=0.7), CLIPS / NAMES[0])
    with pytest.raises(ConfigError, match="tau"):  # the operator has not allowed it
        list(answers.ask(refused, threading.Event()))


def test_no_server_and_no_key(server: Served) -> None:
    with pytest.raises(ConfigError):
        FromServer(server.url)
    with pytest.raises(ConfigError):
        FromServer("localhost:8000")
    with pytest.raises(SetupError):
        FromServer("http://127.0.0.1:1/v1")
