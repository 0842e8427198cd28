"""VideoCache: the encoded videos of a model, so that the next call about one of them does not read and encode it."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from prunevid_qwen.adapters import adapter_for
from prunevid_qwen.answers.follow_up import shown_in
from prunevid_qwen.config.option_checks import check_count
from prunevid_qwen.forward.prefix import fingerprint
from prunevid_qwen.forward.pruning import plan_of
from prunevid_qwen.inputs.prepared import Prepared
from prunevid_qwen.vision.options import vision_options

READING = ("video_sampling", "max_frames", "fps", "max_pixels", "total_pixels", "video_backend")
_BLOCK = 2**20


class VideoCache:
    """Encoded videos, the last used ones, up to a number of bytes. `PrunedVLM(video_cache_bytes=...)` makes it.

    A video is known by its path, size and time of change. A file whose path or time is another one is known by its
    content, so a copied or touched file is no other video. What comes in memory is known by its content. The range, the
    options of reading, and those of the vision encoder count too, and so do the encoder's weights. A file that changes
    and keeps its size and its time of change is not told from what it was: call `clear`.

    Bytes are those of the features, where the model put them. Videos that this package does not encode ahead (LLaVA's
    families, InternVL) are not held.

    Args:
        limit_bytes: at most so many are held; a video that is larger is not held at all.

    Raises:
        ConfigError: it is no whole number above 0.
    """

    def __init__(self, limit_bytes: int) -> None:
        check_count("video_cache_bytes", limit_bytes, 1)
        self.limit_bytes = limit_bytes
        self._held: OrderedDict[tuple[Any, ...], Prepared] = OrderedDict()
        self._contents: dict[tuple[Any, ...], str] = {}  # of files, by path, size and time of change
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return len(self._held)

    @property
    def bytes(self) -> int:
        """Bytes of all features that are held."""
        with self._lock:
            return sum(each.bytes for each in self._held.values())

    def clear(self) -> None:
        """Let go of all videos."""
        with self._lock:
            self._held.clear()
            self._contents.clear()

    def of(self, model: Any, videos: Any, start: float | None, end: float | None,
           prepare: Callable[[], Prepared]) -> tuple[Prepared, bool]:  # fmt: skip
        """Return the encoded videos of a call, and whether they were held.

        Args:
            model: a `PrunedVLM`.
            videos: one, or a list for one prompt.
            start: seconds at which the frames begin.
            end: seconds at which they end.
            prepare: reads and encodes them.
        """
        key = self.key_of(model, videos, start, end)
        with self._lock:
            held = self._held.get(key)
            if held is not None:
                self._held.move_to_end(key)
                return held, True
        made = prepare()
        if made.encoded is not None and made.bytes <= self.limit_bytes:
            with self._lock:
                self._held[key] = made
                while self.bytes > self.limit_bytes:
                    self._held.popitem(last=False)
        return made, False

    def facts(self, hit: bool) -> dict[str, Any]:
        """Return what a receipt says of a call."""
        return {"hit": hit, "videos": len(self), "bytes": self.bytes, "limit_bytes": self.limit_bytes}

    def key_of(self, model: Any, videos: Any, start: float | None, end: float | None) -> tuple[Any, ...]:
        """Return what tells the encoded videos of a call from all others; the arguments are those of `of`."""
        shown = shown_in(None, videos, None, start, end)
        config, adapter = model.config, adapter_for(model.model)
        plan = plan_of(config if model.plan is None else model.plan, len(adapter.parts.layers))
        flat = config.flat()
        return (
            tuple(self._identity(each.identity) for each in shown), start, end,
            tuple(str(flat.get(name)) for name in READING), repr(vision_options(config.reading)),
            repr(plan.needs.vision), fingerprint(adapter.parts.vision),
        )  # fmt: skip

    def _identity(self, identity: Sequence[Any]) -> tuple[Any, ...]:
        if identity[0] != "path" or len(identity) != 4 or not os.path.isfile(identity[1]):
            return tuple(identity)
        known = tuple(identity)
        if known not in self._contents:
            self._contents[known] = _content_of(identity[1])
        return "content", self._contents[known]


def _content_of(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def cacheable(question: Any, messages: Any, videos: Any, images: Any) -> bool:
    """Tell whether a call of `generate` is about videos that all its questions share."""
    several = isinstance(question, (list, tuple))
    shared = isinstance(question, str) or (several and not isinstance(videos, (list, tuple)))
    return shared and videos is not None and images is None and messages is None
