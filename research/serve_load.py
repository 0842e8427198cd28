"""The server under load: ``python -m research.serve_load`` writes a record of it, eval/results/serve_load.json.

First the throughput of clients that wait at once, against the same requests one at a time, for the pruning, for no
pruning and for two controls. Then a crowd: good requests among broken, huge, slow and vanishing ones. Each good request
is answered once, by the words that it gets when it is alone.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import httpx
import typer

from prunevid_qwen.app.uploads import CLIPS
from prunevid_qwen.cli import run_script
from prunevid_qwen.evaluation.report.page import json_text
from prunevid_qwen.evaluation.speed.speed_run import hardware
from prunevid_qwen.evaluation.store import surroundings
from prunevid_qwen.receipt import versions
from research.shapes_run import RESULTS, command_of

CLIENTS = 16
CONFIGS = ("paper", "baseline", "random", "uniform")
NAMES = ("late_square.mp4", "three_arrive.webm", "all_move.gif")
QUESTIONS = ("What color is the last object?", "How many objects are there?",
             "What shape is the first object to appear?", "What color is the first object to appear?")  # fmt: skip
KINDS = ("good", "streamed", "good", "no json", "good", "no video", "good", "huge", "good", "slow", "good", "vanishes",
         "good", "half sent", "streamed", "address")  # fmt: skip
"""Of a crowd's requests, in turn; the shares of a crowd are those of this list."""
STATUS = {"no json": 400, "no video": 400, "huge": 413, "address": 400}
_JSON = {"content-type": "application/json"}


@dataclass(frozen=True)
class Server:
    """A server in a process of its own.

    Args:
        url: of its API.
        process: its own.
    """

    url: str
    process: subprocess.Popen[str]

    @property
    def host(self) -> tuple[str, int]:
        """Its address and port."""
        address, _, port = self.url.removeprefix("http://").partition("/")[0].rpartition(":")
        return address, int(port)

    def resident(self) -> int:
        """Return the bytes of memory that it has, those of its decoders not counted."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * 4096

    def health(self) -> dict[str, Any]:
        """Return what it says of itself."""
        return dict(httpx.get(self.url.replace("/v1", "/health"), timeout=60).json())


@contextmanager
def serving(*options: str) -> Iterator[Server]:
    """Run ``prunevid serve`` with the bundled toy inside the block; it ends by SIGTERM."""
    command = [sys.executable, "-m", "prunevid_qwen.cli", "serve", "--json", "--quiet", "--port", "0", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    try:
        yield Server(json.loads(process.stdout.readline())["url"], process)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(120)


def bodies(config: str, stream: bool = False) -> list[str]:
    """Return a request of each question about each clip."""
    made = []
    for name, question in itertools.product(NAMES, QUESTIONS):
        address = "data:video/mp4;base64," + base64.b64encode((CLIPS / name).read_bytes()).decode()
        content = [{"type": "video_url", "video_url": {"url": address}}, {"type": "text", "text": question}]
        made.append(json.dumps({
            "model": "bundled", "messages": [{"role": "user", "content": content}], "temperature": 0, "stream": stream,
            "prunevid": {"config": config},
        }))  # fmt: skip
    return made


async def whole(client: httpx.AsyncClient, url: str, body: str) -> tuple[str, float, int]:
    """Ask once; return the answer, its seconds, and the requests of its batch."""
    began = time.perf_counter()
    answer = await client.post(f"{url}/chat/completions", content=body, headers=_JSON)
    answer.raise_for_status()
    found = answer.json()
    return (
        found["choices"][0]["message"]["content"],
        time.perf_counter() - began,
        found["prunevid"]["batch"]["requests"],
    )


async def throughput(url: str, config: str, requests: int, repeats: int) -> dict[str, Any]:
    """Measure the same requests one at a time and from `CLIENTS` clients, taking turns."""
    asked = list(itertools.islice(itertools.cycle(bodies(config)), requests))
    rows: list[dict[str, Any]] = []
    async with httpx.AsyncClient(timeout=300) as client:
        for body in asked[
            : len(NAMES) * len(QUESTIONS)
        ]:  # videos are encoded, and everything is made that is made once
            await whole(client, url, body)
        gate = asyncio.Semaphore(CLIENTS)

        async def one_of(body: str) -> tuple[str, float, int]:
            async with gate:
                return await whole(client, url, body)

        for _ in range(repeats):
            began = time.perf_counter()
            alone = [await whole(client, url, body) for body in asked]
            between = time.perf_counter()
            many = await asyncio.gather(*map(one_of, asked))
            ended = time.perf_counter()
            rows.append({
                "alone_per_second": requests / (between - began), "together_per_second": requests / (ended - between),
                "ratio": (between - began) / (ended - between),
                "differ": sum(one[0] != other[0] for one, other in zip(alone, many, strict=True)),
                "alone_seconds": quantiles([each[1] for each in alone]),
                "together_seconds": quantiles([each[1] for each in many]),
                "mean_batch": sum(each[2] for each in many) / requests,
            })  # fmt: skip
    return {"config": config, "requests": requests, "repeats": rows, "ratio": median(each["ratio"] for each in rows)}


def quantiles(seconds: Sequence[float]) -> dict[str, float]:
    """Return the middle of them, and what 95 of 100 are not above."""
    ordered = sorted(seconds)
    return {"p50": ordered[len(ordered) // 2], "p95": ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]}


class Crowd:
    """Good and bad clients of one server.

    Args:
        server: asked.
        known: the answer to each body when it is alone.
    """

    def __init__(self, server: Server, known: dict[str, str]) -> None:
        self._server, self._known = server, list(known.items())
        self._client = httpx.AsyncClient(timeout=300)
        self.seconds = list[float]()
        self.outcomes = Counter[str]()

    async def ask(self, number: int) -> None:
        """Send one request of its kind, and count what came of it: "good: right", "huge: 413", ..."""
        kind = KINDS[number % len(KINDS)]
        body, wanted = self._known[number % len(self._known)]
        if kind == "good":
            outcome = await self._good(body, wanted)
        elif kind == "streamed":
            outcome = await self._streamed(body, wanted, slow=False)
        elif kind == "slow":
            outcome = await self._streamed(body, wanted, slow=True)
        elif kind in ("vanishes", "half sent"):
            outcome = await self._rude(body, half=kind == "half sent")
        else:
            wrong = {
                "no json": "{", "huge": " " * (3 * 10**6), "address": body.replace("data:video", "http://127.0.0.1/"),
                "no video": body.replace("base64,", "base64,AAAA"),
            }[kind]  # fmt: skip
            answer = await self._client.post(f"{self._server.url}/chat/completions", content=wrong, headers=_JSON)
            outcome = str(answer.status_code)
        self.outcomes[f"{kind}: {outcome}"] += 1

    async def _good(self, body: str, wanted: str) -> str:
        while True:
            began = time.perf_counter()
            answer = await self._client.post(f"{self._server.url}/chat/completions", content=body, headers=_JSON)
            if answer.status_code == 429:  # as the client library does
                self.outcomes["told to come again"] += 1
                await asyncio.sleep(0.05)
                continue
            self.seconds.append(time.perf_counter() - began)
            return "right" if answer.json()["choices"][0]["message"]["content"] == wanted else "wrong"

    async def _streamed(self, body: str, wanted: str, slow: bool) -> str:
        """Read a stream; slowly, a few bytes at a time through a small buffer."""
        body = json.dumps({**json.loads(body), "stream": True})
        reader, writer = await self._sent(body, len(body), 2**10 if slow else 2**16)
        text, ended = "", 0
        status = await reader.readline()
        held = b""
        while part := await reader.read(64 if slow else 2**16):
            held += part
            if slow:
                await asyncio.sleep(0.001)
        writer.close()
        for line in held.split(b"\n"):
            if line.startswith(b"data: {"):
                for choice in json.loads(line[6:])["choices"]:
                    text += choice["delta"].get("content") or ""
            ended += line.startswith(b"data: [DONE]")
        return "right" if b" 200 " in status and text == wanted and ended == 1 else f"wrong ({status!r} {text!r})"

    async def _rude(self, body: str, half: bool) -> str:
        _, writer = await self._sent(body[: len(body) // 2] if half else body, len(body))
        writer.transport.abort()
        return "gone"

    async def _sent(
        self, body: str, size: int, buffer: int = 2**16
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(*self._server.host, limit=buffer)
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
            b"content-type: application/json\r\n" + f"content-length: {size}\r\n\r\n{body}".encode()
        )
        with suppress(ConnectionError):
            await writer.drain()
        return reader, writer

    async def come(self, requests: int) -> dict[str, Any]:
        """Send so many requests from `CLIENTS` clients; return what came of them."""
        numbers, before = iter(range(requests)), self._server.resident()

        async def client() -> None:
            for number in numbers:
                await self.ask(number)

        began = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(CLIENTS)))
        seconds = time.perf_counter() - began
        while self._server.health()["inside"]:
            await asyncio.sleep(0.01)
        return {
            "requests": requests, "clients": CLIENTS, "seconds": seconds,
            "outcomes": dict(sorted(self.outcomes.items())), "good_seconds": quantiles(self.seconds),
            "bytes_before": before, "bytes_after": self._server.resident(),
            "health": self._server.health(),
        }  # fmt: skip


async def known_answers(url: str) -> dict[str, str]:
    """Return the answer to each request of ``paper``, asked alone."""
    async with httpx.AsyncClient(timeout=300) as client:
        return {body: (await whole(client, url, body))[0] for body in bodies("paper")}


def main(
    requests: Annotated[int, typer.Option(min=16, help="Of each config, in each repeat.")] = 96,
    repeats: Annotated[int, typer.Option(min=1, help="Of each config.")] = 3,
    crowd: Annotated[int, typer.Option(min=16, help="Requests of the crowd.")] = 200,
    out: Annotated[Path, typer.Option(help="The record.")] = RESULTS / "serve_load.json",
) -> None:
    """Measure a server of the bundled toy on this machine, under the clients that a server meets."""
    about = surroundings()
    options = [word for config in CONFIGS for word in ("--allow_config", config)]
    with serving("--max_batch", "16", *options) as server:
        rows = [asyncio.run(throughput(server.url, config, requests, repeats)) for config in CONFIGS]
    with serving("--max_batch", "8", "--max_queue", "32", "--max_body_megabytes", "2") as server:
        known = asyncio.run(known_answers(server.url))

        async def come() -> list[dict[str, Any]]:
            return [await Crowd(server, known).come(crowd) for _ in range(3)]

        crowds = asyncio.run(come())
    record = {
        "what": "prunevid serve with the first toy: requests one at a time, from many clients, and among bad ones",
        "command": command_of("research.serve_load"), "clients": CLIENTS, "throughput": rows, "crowds": crowds,
        "hardware": hardware("cpu"), "versions": versions(), **about,
    }  # fmt: skip
    out.write_text(json_text(record), encoding="utf-8")
    for row in rows:
        typer.echo(
            f"{row['config']}: {row['ratio']:.2f} times, {sum(each['differ'] for each in row['repeats'])} differ"
        )
    typer.echo(json_text(crowds))


if __name__ == "__main__":
    run_script(main)
