"""A crowd of good, broken, huge, slow and vanishing clients: none of the good is lost or doubled, and memory stays."""

from __future__ import annotations

import asyncio

import pytest

from research import serve_load

pytestmark = pytest.mark.nightly


def test_many_at_once_are_answered_in_batches_as_one_at_a_time() -> None:
    with serve_load.serving("--max_batch", "16") as server:
        row = asyncio.run(serve_load.throughput(server.url, "paper", 48, 1))["repeats"][0]
    assert row["differ"] == 0 and row["mean_batch"] > 4


def test_a_crowd() -> None:
    with serve_load.serving("--max_batch", "8", "--max_queue", "32", "--max_body_megabytes", "2") as server:
        known = asyncio.run(serve_load.known_answers(server.url))

        async def come() -> list[dict[str, object]]:
            return [await serve_load.Crowd(server, known).come(200) for _ in range(2)]

        first, second = asyncio.run(come())
        counts = [sum(n for name, n in each["outcomes"].items() if ":" in name) for each in (first, second)]  # type: ignore[attr-defined]
        assert counts == [200, 200]
        for each in (first, second):
            outcomes = each["outcomes"]
            wrong = [name for name in outcomes if "wrong" in name]  # type: ignore[attr-defined]
            assert not wrong
            for kind, status in serve_load.STATUS.items():
                assert {name for name in outcomes if name.startswith(f"{kind}:")} == {f"{kind}: {status}"}  # type: ignore[attr-defined]
        # what the first crowd left behind is all that there is: the second adds less than a twentieth
        assert second["bytes_after"] < 1.05 * first["bytes_after"]  # type: ignore[operator]
        assert server.health()["inside"] == 0
