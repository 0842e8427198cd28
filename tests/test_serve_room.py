"""What waits is bounded in bytes: bodies, and decoded media by what is known of them before they are decoded."""

from __future__ import annotations

import asyncio

import pytest

from prunevid_qwen import get_config
from prunevid_qwen.errors import MediaError
from prunevid_qwen.inputs.messages import Item, read_item
from prunevid_qwen.inputs.qwen.media import MediaReader
from prunevid_qwen.serve.limits import ServeLimits
from prunevid_qwen.serve.waiting_room import WaitingRoom, bytes_of
from tests.serving import CLIPS, NAMES
from tests.test_serve_gate import Answers, head, post, raw, running

PAPER = get_config("paper")


def test_requests_get_in_while_there_is_room_in_the_order_of_coming() -> None:
    async def whole() -> None:
        room, order, leave = WaitingRoom(10), list[str](), {name: asyncio.Event() for name in "abcd"}

        async def request(name: str, size: int) -> None:
            async with room.room_for(size):
                order.append(name)
                await leave[name].wait()

        async def settled() -> None:
            for _ in range(20):
                await asyncio.sleep(0)

        tasks = {}
        for name, size in (("a", 30), ("b", 6), ("c", 6), ("d", 4)):  # the first is larger than all there is
            tasks[name] = asyncio.create_task(request(name, size))
            await settled()
        assert order == ["a"] and room.bytes == 30
        leave["a"].set()
        await settled()
        async with room.room_for(0):  # what is held already needs none, and waits for nobody
            assert room.bytes == 6
        assert order == ["a", "b"] and room.bytes == 6  # d would fit, and waits for its turn
        tasks["c"].cancel()
        await settled()
        assert order == ["a", "b", "d"] and room.bytes == 10
        for each in leave.values():
            each.set()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
        assert room.bytes == 0

    asyncio.run(whole())


def test_once_it_is_known_how_large_they_are_others_get_in() -> None:
    async def whole() -> None:
        room = WaitingRoom(10)
        async with room.room_for(9) as place:
            other = asyncio.create_task(room.room_for(9).__aenter__())
            await asyncio.sleep(0)
            assert not other.done()
            room.known(place, 1)
            await other
            assert room.bytes == 10
            room.known(place, 5)  # it is never more than was asked for
            assert room.bytes == 10
        assert room.bytes == 9

    asyncio.run(whole())


def test_what_is_counted_is_no_less_than_what_comes() -> None:
    reader, limits = MediaReader(), ServeLimits()
    for options in ({}, {"max_frames": 24}, {"resized_height": 448, "resized_width": 448}):
        read = read_item({"type": "video", "video": "x", **options})
        medium = reader.read_video(str(CLIPS / NAMES[0]), PAPER, **read.options)
        assert bytes_of([read], PAPER, limits, reader.video) >= medium.pixels.nbytes
    many = bytes_of([Item("video", "x")] * 16, PAPER, limits, reader.video)
    assert many <= bytes_of([Item("video", "x", {"fps": 9.0})], PAPER, limits, reader.video)  # no prompt is larger
    assert bytes_of([Item("video", "x")], PAPER, limits, None) == 3 * limits.pixels * 16


def test_a_video_of_too_many_tokens_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = MediaReader()
    frames, _, facts = reader.read_fitted(str(CLIPS / NAMES[0]), PAPER)
    tokens = facts["grid"][0] * facts["grid"][1] * facts["grid"][2]
    assert len(reader.read_fitted(str(CLIPS / NAMES[0]), PAPER, tokens)[0]) == len(frames)
    monkeypatch.setattr("prunevid_qwen.inputs.qwen.media.fitted_frame", None)
    with pytest.raises(MediaError):
        reader.read_fitted(str(CLIPS / NAMES[0]), PAPER, tokens - 1)


def test_bodies_together_are_bounded() -> None:
    engine = Answers(ServeLimits(waiting_megabytes=1), free=False)
    with running(engine) as server:
        body = b'{"model": "bundled", "messages": [{"role": "user", "content": "' + b"x" * 700_000 + b'"}]}'
        first = raw(server, head(len(body)) + body)
        engine.until(inside=1)
        assert post(server, body)[0] == 429
        small = raw(server, head() + b'{"model": "bundled", "messages": [{"role": "user", "content": "What?"}]}')
        engine.until(inside=2)
        engine.release()
        for each in (first, small):
            assert each.recv(12) == b"HTTP/1.1 200"
        engine.until(inside=0)
        while server.gate.inside:
            pass
        assert server.gate.bytes == 0
