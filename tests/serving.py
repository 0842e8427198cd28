"""A server in a thread of this process, with the bundled toy, and what the real client needs to ask it."""

from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from openai import OpenAI

from prunevid_qwen import PrunedVLM
from prunevid_qwen.serve.allowed_configs import AllowedConfigs
from prunevid_qwen.serve.http_app import served
from prunevid_qwen.serve.limits import ServeLimits
from prunevid_qwen.serve.listening import ListensAt
from prunevid_qwen.serve.media_addresses import MediaAddresses
from prunevid_qwen.serve.request_rules import RequestRules
from prunevid_qwen.serve.served_model import ServedModel

CLIPS = Path(__file__).resolve().parent.parent / "prunevid_qwen" / "bundled" / "clips"
NAMES = ("late_square.mp4", "three_arrive.webm", "all_move.gif")
QUESTIONS = (
    "What color is the last object?",
    "How many objects are there?",
    "What shape is the first object to appear?",
    "Where is the red square at the end?",
)


def uri(name: str = NAMES[0]) -> str:
    kind = "image/png" if name.endswith(".png") else "video/mp4"
    return f"data:{kind};base64,{base64.b64encode((CLIPS / name).read_bytes()).decode()}"


def messages(question: str = QUESTIONS[0], address: str | None = None) -> list[dict[str, Any]]:
    shown = {"type": "video_url", "video_url": {"url": uri() if address is None else address}}
    return [{"role": "user", "content": [shown, {"type": "text", "text": question}]}]


def rules(limits: ServeLimits | None = None, **allowed: Any) -> RequestRules:
    return RequestRules("bundled", AllowedConfigs(**allowed), limits or ServeLimits())


def engine(model: PrunedVLM, limits: ServeLimits | None = None, **more: Any) -> ServedModel:
    return ServedModel(model, rules(limits), more.get("held", 2**28), more.get("free", 2**32), 1)


class Served:
    """A running server.

    Args:
        url: ends with /v1.
        gate: the application.
    """

    def __init__(self, url: str, gate: Any) -> None:
        self.url, self.gate = url, gate

    def client(self, **more: Any) -> OpenAI:
        return OpenAI(**{"base_url": self.url, "api_key": "none", "max_retries": 0, "timeout": 60, **more})


@contextmanager
def running(answers: Any, asked: RequestRules | None = None, **more: Any) -> Iterator[Served]:
    """Serve in a thread; ``more`` as `served` takes it."""
    asked = asked or answers.rules
    addresses = more.pop("addresses", MediaAddresses(root=CLIPS))
    gate = served(answers, asked, addresses, **more)
    listening = ListensAt(port=0).listening()
    config = uvicorn.Config(gate, log_config=None, access_log=False, lifespan="on", ws="none", http="h11")
    server, up = uvicorn.Server(config), threading.Event()

    async def serve() -> None:
        began = asyncio.create_task(server.serve([listening]))
        while not server.started and not began.done():
            await asyncio.sleep(0.005)
        up.set()
        await began

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    try:
        assert up.wait(120) and server.started, "the server did not start"
        yield Served(f"http://127.0.0.1:{listening.getsockname()[1]}/v1", gate)
    finally:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive()
