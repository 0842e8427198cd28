"""SideBySide for a page: the pruned answer and the unpruned one as they grow, their receipts, and what was kept."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList

from prunevid_qwen.answers.answer import Answer
from prunevid_qwen.answers.session.open_videos import OpenVideos
from prunevid_qwen.answers.streamer import streamer_to
from prunevid_qwen.config import ALL_OFF, PruneVidConfig
from prunevid_qwen.config.media_reading import STOCK_ENCODER
from prunevid_qwen.errors import ConfigError, PruneVidError
from prunevid_qwen.pictures.html import page
from prunevid_qwen.pictures.overlay import overlay

PRUNED, UNPRUNED = "pruned", "unpruned"
_POLLED = 0.25  # seconds after which a page that waits is looked at again: it may have gone


@dataclass(frozen=True)
class Asked:
    """A question of a page.

    Args:
        question: its words.
        config: of the pruned answer.
        video: the file; None where it is about images.
        images: files.
        compare: answer without pruning too.
        preset: that ``config`` was made of.
        max_new_tokens: longest answer.
    """

    question: str
    config: PruneVidConfig
    video: Path | None = None
    images: tuple[Path, ...] = ()
    compare: bool = True
    max_new_tokens: int = 64
    preset: str = "paper"

    def __post_init__(self) -> None:
        if not self.question.strip():
            raise ConfigError("no question: type one below the video")
        if self.video is None and not self.images:
            raise ConfigError("nothing to ask about: upload a video or an image, or take one of the examples")


@dataclass(frozen=True)
class Seen:
    """What a page shows of a question at one moment.

    Args:
        doing: what goes on, in words; "" at the end.
        texts: of each side, the answer so far.
        answers: of each side that has ended.
        page: which tokens the pruned side kept, as a page of HTML.
        overlay: the same drawn on the video, an mp4.
        notes: sentences.
        stopped: somebody stopped it.
        ended: nothing more comes.
    """

    doing: str = ""
    texts: dict[str, str] = field(default_factory=dict)
    answers: dict[str, Answer] = field(default_factory=dict)
    page: str | None = None
    overlay: bytes | None = None
    notes: tuple[str, ...] = ()
    stopped: bool = False
    ended: bool = False


class AskedToStop(Exception):
    """Somebody stopped the question."""


class _Stop(StoppingCriteria):  # type: ignore[misc]
    """Ends an answer once an event is set."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop

    def __call__(self, input_ids: Tensor, scores: Any, **_more: Any) -> Any:
        return torch.full((len(input_ids),), self._stop.is_set(), dtype=torch.bool, device=input_ids.device)


class SideBySide:
    """Answers the questions of all pages with one model. Threads take turns at it, an answer at a time.

    Args:
        model: a `PrunedVLM` with ``video_cache_bytes``.
    """

    def __init__(self, model: Any) -> None:
        self.model, self.videos = model, OpenVideos(model)
        self.kinds: frozenset[str] = frozenset(model.frontend.reads)
        """What the model is shown: "video", "image"."""

    def warm_up(self, video: Path) -> None:
        """Answer once with and without pruning, so that no first question pays for what is made once."""
        shown: Any = {"video_path": str(video)} if "video" in self.kinds else {"images": [Image.new("RGB", (224, 224))]}
        for config in self._sides(Asked("?", self.model.config, video)).values():
            self.model.with_config(config).generate(**shown, question="?", max_new_tokens=2)
        self.model.videos.clear()  # the first question about this clip encodes it as any other

    def ask(self, asked: Asked, stop: threading.Event) -> Generator[Seen, None, None]:
        """Answer a question; yield what there is to show, each time that it has changed.

        A caller that gives up the iterator stops the question.

        Args:
            asked: the question.
            stop: ends it within a token once it is set; what was answered so far is shown, and not kept.

        Raises:
            PruneVidError: as `PrunedVLM.generate`.
        """
        told: queue.Queue[Seen | BaseException] = queue.Queue()
        threading.Thread(target=self._work, args=(asked, stop, told.put), daemon=True).start()
        seen = Seen()
        try:
            while not seen.ended:
                try:
                    said = told.get(timeout=_POLLED)
                    while not told.empty():  # a slow page is shown the newest alone
                        said = _later(said, told.get())
                except queue.Empty:
                    yield seen
                    continue
                if isinstance(said, BaseException):
                    raise said
                seen = said
                yield seen
        finally:
            stop.set()

    def _sides(self, asked: Asked) -> dict[str, PruneVidConfig]:
        config = asked.config.replace(verbose=False)
        without = config.replace(**ALL_OFF, **STOCK_ENCODER)
        return {PRUNED: config, UNPRUNED: without} if asked.compare else {PRUNED: config}

    def _work(self, asked: Asked, stop: threading.Event, tell: Callable[[Any], None]) -> None:
        now = Telling(tell)
        try:
            for side, config in self._sides(asked).items():
                now.show(doing=f"waiting for the model, {side}")
                answer = self._answer(asked, side, config, stop, now)
                now.show(answers={**now.seen.answers, side: answer}, texts={**now.seen.texts, side: answer["answer"]})
            now.show(doing="drawing which tokens were kept")
            self._draw(asked, stop, now)
            now.show(doing="", ended=True)
        except AskedToStop:
            now.show(doing="", stopped=True, ended=True)
        except BaseException as error:  # raised where the page is, whatever it is
            tell(error)

    def _answer(self, asked: Asked, side: str, config: PruneVidConfig, stop: threading.Event, now: Telling) -> Answer:
        def encoded(done: int, frames: int) -> None:
            if stop.is_set():
                raise AskedToStop
            now.show(doing=f"reading and encoding, {done}/{frames} frames")

        def words(text: str, _last: bool) -> None:
            texts = now.seen.texts
            now.show(doing=f"answering, {side}", texts={**texts, side: texts.get(side, "") + text})

        arguments: dict[str, Any] = {
            "streamer": streamer_to(words, self.model.tokenizer), "max_new_tokens": asked.max_new_tokens,
            "return_stats": True, "keep_map": side == PRUNED, "stopping_criteria": StoppingCriteriaList([_Stop(stop)]),
        }  # fmt: skip
        if stop.is_set():
            raise AskedToStop
        if asked.video is not None:
            answer: Answer = self.videos.of(config, asked.video, encoded).ask(asked.question, **arguments)
        else:
            images = [str(each) for each in asked.images]
            answer = self.model.with_config(config).generate(images=images, question=asked.question, **arguments)
        if stop.is_set():
            raise AskedToStop
        return answer

    def _draw(self, asked: Asked, stop: threading.Event, now: Telling) -> None:
        kept = now.seen.answers[PRUNED].kept
        if kept is None or not kept.steps:
            now.show(notes=(*now.seen.notes, "nothing was pruned, so there is nothing to draw"))
            return
        kept = replace(kept, question=asked.question, answer=now.seen.answers[PRUNED]["answer"])
        sources = [str(each) for each in ([asked.video] if asked.video is not None else asked.images)]
        for name, draws in (("page", page), ("overlay", overlay)):
            if stop.is_set():
                raise AskedToStop
            if name == "overlay" and asked.video is None:
                continue
            try:
                drawn = draws([kept], sources)
            except PruneVidError as error:  # the answer stands; why there is no picture of it is said
                now.show(notes=(*now.seen.notes, f"no picture: {error}"))
                continue
            now.show(**{name: drawn.decode() if name == "page" else drawn})  # type: ignore[arg-type]


@dataclass
class Telling:
    """The newest of what a page shows; each change is told."""

    tell: Callable[[Any], None]
    seen: Seen = field(default_factory=Seen)

    def show(self, **changes: Any) -> None:
        """Change something, and tell."""
        self.seen = replace(self.seen, **changes)
        self.tell(self.seen)


def _later(said: Any, then: Any) -> Any:
    return said if isinstance(said, BaseException) else then
