"""An OpenAI-compatible endpoint on this machine that marks by string and fails when told to."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = Callable[[str, str, str], str]


def by_equality(question: str, reference: str, answer: str) -> str:
    """Full marks for the reference, half for anything else."""
    return f"Compared.\nscore: {1 if answer == reference.rstrip('.').lower() else 0.5}"


class StubJudge:
    """Serves /v1/chat/completions in a thread; use it as a context.

    Args:
        reply: given question, reference and answer, returns what the judge says.
        failures: HTTP statuses of the first requests, one each.
    """

    def __init__(self, reply: Reply = by_equality, failures: tuple[int, ...] = ()) -> None:
        self.reply, self.failures = reply, list(failures)
        self.requests: list[dict[str, Any]] = []
        self.keys: set[str] = set()
        self.lock = threading.Lock()
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, payload = stub.answer(self.path, body, self.headers["Authorization"])
                data = json.dumps(payload).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.send_header("retry-after-ms", "1")  # tests do not wait
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"

    def answer(self, path: str, body: dict[str, Any], key: str) -> tuple[int, dict[str, Any]]:
        with self.lock:
            self.requests.append(body)
            self.keys.add(key)
            if self.failures:
                return self.failures.pop(0), {"error": {"message": "told to fail"}}
        if path != "/v1/chat/completions":
            return 404, {"error": {"message": f"no {path} here"}}
        asked = re.fullmatch(
            "Question: (.*)\nReference answer: (.*)\nGiven answer: (.*)", body["messages"][1]["content"], re.DOTALL
        )
        assert asked is not None
        message = {"role": "assistant", "content": self.reply(*asked.groups())}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return 200, {"id": "1", "object": "chat.completion", "created": 0, "model": body["model"], "choices": [choice]}

    def __enter__(self) -> StubJudge:
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()
