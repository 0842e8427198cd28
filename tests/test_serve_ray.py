"""Two replicas behind Ray Serve: the same answers, a video's requests together, and nothing is lost in silence."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest

from prunevid_qwen import PrunedVLM, get_config
from prunevid_qwen.serve.served_model import AnswerPart
from tests.serving import CLIPS, NAMES, QUESTIONS, Served, messages, rules, running, uri

ray = pytest.importorskip("ray")
pytest.importorskip("ray.serve", reason="make test-all installs Ray Serve")
pytestmark = [pytest.mark.nightly, pytest.mark.timeout(600)]

CASES = [(name, question) for name in NAMES for question in QUESTIONS]


def plan() -> Any:
    from prunevid_qwen.serve.ray_engine import ReplicaPlan

    return ReplicaPlan(
        "bundled", {"device": "cpu"}, get_config("paper").to_json(), rules(), 2**28, 2**31, 1, (2, 2), 0.5, 0
    )


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    from prunevid_qwen.evaluation.engine.ray_cluster import joined

    with joined(None, False, "serve") as found:
        yield found


@pytest.fixture(scope="module")
def server(cluster: Any) -> Iterator[Served]:
    from prunevid_qwen.serve.ray_engine import RayEngine

    with running(RayEngine(plan()), rules()) as found:
        yield found


def replicas() -> list[Any]:
    names = [
        each for each in ray.util.list_named_actors(all_namespaces=True) if each["name"].startswith("SERVE_REPLICA")
    ]
    return [ray.get_actor(each["name"], each["namespace"]) for each in names]


def test_answers_of_two_replicas_are_the_class_s(server: Served) -> None:
    alone = PrunedVLM("bundled")
    assert len(replicas()) == 2

    def ask(case: tuple[str, str]) -> Any:
        return server.client().chat.completions.create(model="bundled", messages=messages(case[1], uri(case[0])))

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(ask, CASES * 2))
    for (name, question), answer in zip(CASES * 2, answers, strict=True):
        wanted = alone.generate(str(CLIPS / name), question, return_stats=True)
        assert answer.choices[0].message.content == wanted["answer"]
        assert answer.prunevid["receipt"]["tokens"] == wanted["stats"]["tokens"]
    drawn: dict[str, Any] = {"model": "bundled", "messages": messages(), "temperature": 2.0, "seed": 4, "n": 2}
    texts = [
        [each.message.content for each in server.client().chat.completions.create(**drawn).choices] for _ in range(3)
    ]
    assert texts[0] == texts[1] == texts[2]
    events = list(server.client().chat.completions.create(model="bundled", messages=messages(), stream=True))
    assert "".join(each.choices[0].delta.content or "" for each in events) == answers[0].choices[0].message.content


def test_what_is_wrong_is_told_as_on_one_machine(server: Served) -> None:
    broken = messages(address="data:video/mp4;base64,AAAA")
    with pytest.raises(openai.BadRequestError) as raised:
        server.client().chat.completions.create(model="bundled", messages=broken)
    assert raised.value.code == "invalid_media"


def test_requests_about_a_video_go_to_who_has_seen_it(server: Served) -> None:
    outcomes = []
    for question in QUESTIONS * 2:
        found = server.client().chat.completions.create(model="bundled", messages=messages(question, uri(NAMES[1])))
        outcomes.append(found.prunevid["prefix"])
    assert outcomes[2:] == ["reused"] * 6  # the other replica would have had to make one


def test_one_that_dies_is_stood_in_for(server: Served) -> None:
    client = server.client()
    wanted = client.chat.completions.create(model="bundled", messages=messages()).choices[0].message.content
    ray.kill(replicas()[0], no_restart=True)
    with ThreadPoolExecutor(4) as pool:
        found = list(
            pool.map(lambda _: client.chat.completions.create(model="bundled", messages=messages()), range(12))
        )
    assert [each.choices[0].message.content for each in found] == [wanted] * 12


def test_one_that_dies_in_the_middle_of_a_stream_is_told(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from prunevid_qwen.serve import ray_engine

    class Halfway:
        """Says one word, and then nothing more."""

        async def __init__(self, plan: Any) -> None:
            pass

        async def answer(self, request: Any, contents: Any) -> AsyncIterator[AnswerPart]:
            import asyncio

            yield AnswerPart(0, "gre")
            await asyncio.Event().wait()

    Halfway.__module__ = "__main__"  # pickled whole: a worker need not find this file
    monkeypatch.setattr(ray_engine, "Replica", Halfway)
    monkeypatch.setattr(ray_engine, "APP", "halfway")
    with running(ray_engine.RayEngine(plan()), rules()) as server:
        stream = server.client().chat.completions.create(model="bundled", messages=messages("?"), stream=True)
        words = []
        with pytest.raises(openai.APIError) as raised:
            for each in stream:
                words.append(each.choices[0].delta.content)
                if words[-1]:
                    for one in replicas():
                        ray.kill(one, no_restart=True)
        assert "gre" in words and raised.value.code == "replica_gone"
