"""Open the page for browsers: where uploads go, who may connect, and the end, after which nothing is left behind."""

from __future__ import annotations

import importlib.util
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from prunevid_qwen.app.addresses import UploadsAlone
from prunevid_qwen.app.method_controls import Choices
from prunevid_qwen.app.side_by_side import SideBySide
from prunevid_qwen.app.uploads import CLIPS, UploadLimits
from prunevid_qwen.errors import SetupError

_UPLOADS = "GRADIO_TEMP_DIR"
LOOPBACK = "127.0.0.1"
_STYLE = """
.prunevid-error { color: #b42318; font-weight: 600 } .dark .prunevid-error { color: #ff8a80 }
.prunevid-toy { color: #8a5a00 } .dark .prunevid-toy { color: #ffc14d }
.prunevid-status { min-height: 1.5em }
#areas { display: grid; grid: "ask answers" auto "method answers" 1fr / minmax(20rem, 1fr) 2fr; align-items: start }
#area-ask { grid-area: ask } #area-answers { grid-area: answers } #area-method { grid-area: method }
#areas > * { min-width: 0 }
@media (max-width: 800px) { #areas { grid: "ask" auto "answers" auto "method" auto / 1fr } }
"""


@dataclass(frozen=True)
class Address:
    """Where browsers find the page.

    Args:
        host: on which it listens; the loopback address lets nobody but this machine in.
        port: a free one is taken from 7860 on if None.
        share: open a tunnel through Gradio's servers, for anybody who has its address.
        waiting: questions that may wait; more are refused at once.
        at_once: questions that are worked on at once. The model answers one at a time, in the order of coming.
    """

    host: str = LOOPBACK
    port: int | None = None
    share: bool = False
    waiting: int = 16
    at_once: int = 4


def check_installed() -> None:
    """Refuse to go on where Gradio is not installed, before a model is loaded.

    Raises:
        SetupError: as it says.
    """
    if importlib.util.find_spec("gradio") is None:
        raise SetupError("the page needs Gradio, which is not installed: pip install 'prunevid_qwen[app]'")


@contextmanager
def _uploads_in(folder: Path) -> Iterator[None]:
    """Let Gradio put uploads into a folder inside the block. It is asked for the folder by this variable alone."""
    before = os.environ.get(_UPLOADS)
    os.environ[_UPLOADS] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ[_UPLOADS]
        else:
            os.environ[_UPLOADS] = before


@contextmanager
def opened(
    answers: SideBySide, choices: Choices, limits: UploadLimits, address: Address, name: str, toy: bool,
    tell: Callable[[str], None] = lambda words: None,
) -> Iterator[str]:  # fmt: skip
    """Open the page inside the block, and yield its address.

    Args:
        answers: of a model here, or of a server.
        choices: presets and options on offer.
        limits: of uploads.
        address: where it is.
        name: of the model, as the page says it.
        toy: it is one.
        tell: called with what goes on, in words.

    Raises:
        SetupError: Gradio is not installed, or the port is taken.
    """
    with tempfile.TemporaryDirectory(prefix="prunevid-app-") as made:
        folder, drawn = (Path(made).resolve() / name for name in ("uploads", "drawn"))
        folder.mkdir()
        drawn.mkdir()
        with _uploads_in(folder), _served(answers, choices, limits, address, name, toy, tell, (folder, drawn)) as url:
            yield url


@contextmanager
def _served(
    answers: SideBySide, choices: Choices, limits: UploadLimits, address: Address, name: str, toy: bool,
    tell: Callable[[str], None], folders: tuple[Path, Path],
) -> Iterator[str]:  # fmt: skip
    """Serve the page inside the block; the arguments are those of `opened`, and the folders of uploads and drawings."""
    try:
        from starlette.middleware import Middleware

        from prunevid_qwen.app.web_page import Desk, build, theme
    except ImportError as error:
        raise SetupError(
            f"the page needs Gradio, and it cannot be loaded ({error}): pip install 'prunevid_qwen[app]'"
        ) from error
    tell("warming up, with and without pruning")
    answers.warm_up(next(CLIPS.glob("*.mp4")))
    blocks = build(Desk(answers, choices, limits, *folders), name, toy)
    blocks.queue(max_size=address.waiting, default_concurrency_limit=address.at_once, api_open=False)
    try:
        _, local, shared = blocks.launch(
            server_name=address.host, server_port=address.port, share=address.share, prevent_thread_lock=True,
            quiet=True, show_error=False, max_file_size=limits.megabytes * 10**6, ssr_mode=False, pwa=False,
            enable_monitoring=False, footer_links=[], theme=theme(), css=_STYLE,
            app_kwargs={"middleware": [Middleware(UploadsAlone, folder=folders[0])]},
        )  # fmt: skip
    except OSError as error:
        raise SetupError(f"the page cannot be opened ({error}): pass another --port") from error
    try:
        yield str(shared or local)
    finally:
        blocks.close(verbose=False)


def wait_for_the_end() -> None:
    """Wait until the command is interrupted."""
    threading.Event().wait()
