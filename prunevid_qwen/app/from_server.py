"""FromServer for the page: the answers of a running ``prunevid serve``, in place of a model's in this process."""

from __future__ import annotations

import base64
import json
import mimetypes
import threading
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx

from prunevid_qwen.answers.answer import Answer
from prunevid_qwen.app.side_by_side import PRUNED, Asked, AskedToStop, SideBySide, Telling
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.config.typed import build_config
from prunevid_qwen.errors import ConfigError, SetupError, excerpt, quoted
from prunevid_qwen.kept import Kept

_SECONDS = 600.0  # that the server may be silent: a long video is encoded before the first word


class FromServer(SideBySide):
    """Asks a server, with the key that it wants.

    Args:
        url: of its API, such as http://127.0.0.1:8000/v1.
        key: None: it wants none.

    Raises:
        SetupError: nobody answers there.
        ConfigError: it is no address, or the key is wrong.
    """

    def __init__(self, url: str, key: str | None = None) -> None:
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"--server is the address of an API, such as http://127.0.0.1:8000/v1; got {quoted(url)}")
        head = {} if key is None else {"authorization": f"Bearer {key}"}
        self._client = httpx.Client(base_url=url.rstrip("/") + "/", headers=head, timeout=_SECONDS, trust_env=False)
        try:
            told = self._client.get("models", timeout=10)
            wrong_key = told.status_code == 401
            self.name = "" if wrong_key else str(told.raise_for_status().json()["data"][0]["id"])
        except (httpx.HTTPError, ValueError, LookupError) as error:
            raise SetupError(
                f"no prunevid server answers at {url} ({type(error).__name__}): start `prunevid serve`"
            ) from None
        if wrong_key:
            raise ConfigError(f"the server at {url} wants another key: pass --server_key_file")
        self.kinds = frozenset({"video", "image"})  # what its model is not shown, the server refuses in words

    def warm_up(self, video: Path) -> None:
        """Do nothing: the server is warm, or others wait for it."""

    def _answer(self, asked: Asked, side: str, config: PruneVidConfig, stop: threading.Event, now: Telling) -> Answer:
        if stop.is_set():
            raise AskedToStop
        text, done = "", dict[str, Any]()
        now.show(doing=f"waiting for the server, {side}")
        body = {**_messages(asked), "model": self.name, "stream": True, "max_tokens": asked.max_new_tokens,
                "prunevid": _pruning(asked, side)}  # fmt: skip
        with closing(self._events(body)) as events:
            for event in events:
                if stop.is_set():
                    raise AskedToStop
                for choice in event.get("choices", []):
                    text += choice["delta"].get("content") or ""
                done |= event.get("prunevid") or {}
                now.show(doing=f"answering, {side}", texts={**now.seen.texts, side: text})
        kept = Kept.from_dict(done["kept"]) if side == PRUNED and "kept" in done else None
        return Answer.of({"answer": text, "stats": done["receipt"]}, kept)

    def _events(self, body: dict[str, Any]) -> Generator[dict[str, Any], None, None]:
        """Yield the events of a streamed answer.

        Raises:
            ConfigError: the server refuses the question.
            SetupError: it went away.
        """
        try:
            with self._client.stream("POST", "chat/completions", json=body) as answer:
                if answer.status_code != 200:
                    answer.read()
                    raise _refused(answer.status_code, answer.text)
                ended = False
                for line in answer.iter_lines():
                    if line.startswith("data: {"):
                        event = json.loads(line[6:])
                        if "error" in event:
                            raise _refused(0, line[6:])
                        yield event
                    ended = ended or line == "data: [DONE]"
        except httpx.HTTPError as error:
            raise SetupError(f"the server went away ({type(error).__name__}): ask again once it is there") from None
        if not ended:
            raise SetupError("the server broke off in the middle of its answer: ask again")


def _messages(asked: Asked) -> dict[str, Any]:
    shown = [(asked.video, "video_url")] if asked.video is not None else [(each, "image_url") for each in asked.images]
    items: list[dict[str, Any]] = [{"type": kind, kind: {"url": _data(path, kind)}} for path, kind in shown]
    return {"messages": [{"role": "user", "content": [*items, {"type": "text", "text": asked.question}]}]}


def _data(path: Path, kind: str) -> str:
    form = mimetypes.guess_type(path.name)[0] or ("video/mp4" if kind == "video_url" else "image/png")
    return f"data:{form};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _pruning(asked: Asked, side: str) -> dict[str, Any]:
    """Return the pruning of a side as a request says it: a preset, and what differs from it."""
    own, preset = asked.config.flat(), build_config(asked.preset, {}).flat()
    changed = {name: "none" if value is None else value for name, value in own.items()
               if value != preset.get(name) and name != "verbose"}  # fmt: skip
    if side == PRUNED:
        return {"config": asked.preset, "keep_map": True, **changed}
    return {
        "config": "baseline",
        **{name: value for name, value in changed.items() if name in ("max_frames", "max_pixels")},
    }


def _refused(status: int, text: str) -> ConfigError:
    try:
        why = json.loads(text)["error"]["message"]
    except (ValueError, LookupError, TypeError):
        why = excerpt(text, 200) or f"status {status}"
    return ConfigError(f"the server says: {why}")
