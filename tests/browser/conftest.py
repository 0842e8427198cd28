"""The page of `prunevid app`, served by the command itself, and tabs of the distribution's Chromium that look at it."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.browser.chromium import HOW, chromium

EXAMPLE, ITS_ANSWER = "What color is the last object?", "green"


@dataclass(frozen=True)
class Page:
    """A page that is served.

    Args:
        url: its address.
        temporary: the server's folder for temporary files.
    """

    url: str
    temporary: Path


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    missing = [each for each in ("gradio", "playwright") if importlib.util.find_spec(each) is None]
    if missing:
        pytest.skip(f"{' and '.join(missing)} are not installed: make test-app runs these in a venv of their own")
    path = chromium()
    if path is None:
        pytest.skip(HOW)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="session")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Page]]:
    """Start the command with options; what it wrote into its temporary folder is gone when it has ended."""
    running = []

    def start(*options: str) -> Page:
        temporary = tmp_path_factory.mktemp("server")
        command = [sys.executable, "-m", "prunevid_qwen.cli", "app", "--json", *options]
        environment = {**os.environ, "TMPDIR": str(temporary)}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        running.append((process, temporary))
        assert process.stdout is not None
        line = process.stdout.readline()  # written once the page is there
        assert line, f"the command ended: exit code {process.wait()}"
        return Page(json.loads(line)["url"], temporary)

    yield start
    left = []
    for process, temporary in running:
        process.terminate()
        assert process.wait() == 128 + signal.SIGTERM
        left += [each for each in temporary.rglob("*") if each.is_file()]
    assert not left, f"left behind: {left}"


@pytest.fixture(scope="session")
def served(browser: Any, serve: Callable[..., Page]) -> Page:
    return serve("--max_seconds", "60", "--vision_chunk_tokens", "64")  # many chunks: a long time to stop in


@pytest.fixture
def open_tab(browser: Any, served: Page) -> Iterator[Callable[..., Any]]:
    """Open tabs; each may log no error, and fetch nothing from elsewhere."""
    wrong: list[str] = []
    contexts = []

    def opened(page: str | None = None, **options: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 1600}, **options})
        contexts.append(context)
        tab = context.new_page()
        tab.set_default_timeout(60_000)
        tab.on("console", lambda said: wrong.extend([said.text] * (said.type == "error")))
        tab.on("pageerror", lambda error: wrong.append(str(error)))
        tab.on("request", lambda request: wrong.extend([request.url] * elsewhere(request.url)))
        own.append(page or served.url)
        tab.goto(own[-1])
        return tab

    own: list[str] = []

    def elsewhere(url: str) -> bool:
        return not url.startswith((*own, "data:", "blob:"))

    yield opened
    for each in contexts:
        each.close()
    assert not wrong
