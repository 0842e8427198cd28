"""PreparedMedia: what clients sent, encoded once for all who send the same, up to a number of bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

from prunevid_qwen.answers.session.video_cache import READING
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.forward.prefix import Prefixes
from prunevid_qwen.inputs.together import PreparedMedium
from prunevid_qwen.serve.media_addresses import MediaContent
from prunevid_qwen.vision.options import vision_options

_FEW = 64
"""Prefixes are counted by bytes, but an empty one has none."""


def key_of(content: MediaContent, config: PruneVidConfig, taps: str) -> Hashable:
    """Return what tells an encoded medium from all others.

    Args:
        content: as it was sent.
        config: how it is read.
        taps: what the config's methods ask of the vision encoder.
    """
    flat = config.flat()
    reading = tuple(str(flat.get(name)) for name in READING)
    given = tuple(sorted((name, str(value)) for name, value in content.options.items()))
    return content.digest, given, reading, repr(vision_options(config.reading)), taps


@dataclass
class PreparedMedia:
    """Encoded media and the prefixes of their prompts; the last used ones stay. Threads may share it.

    Args:
        limit_bytes: of both together.
    """

    limit_bytes: int
    hits: int = 0
    misses: int = 0
    _held: OrderedDict[Hashable, PreparedMedium] = field(default_factory=OrderedDict)
    _prefixes: OrderedDict[Hashable, Prefixes] = field(default_factory=OrderedDict)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def __len__(self) -> int:
        return len(self._held)

    @property
    def bytes(self) -> int:
        """Bytes that are held."""
        with self._lock:
            return sum(each.bytes for held in (self._held, self._prefixes) for each in held.values())  # type: ignore[attr-defined]

    def get(self, key: Hashable) -> PreparedMedium | None:
        """Return a medium that is held, which is the last used one then."""
        with self._lock:
            found = self._held.get(key)
            if found is None:
                self.misses += 1
            else:
                self.hits += 1
                self._held.move_to_end(key)
            return found

    def holds(self, key: Hashable) -> bool:
        """Tell whether a medium is held."""
        return key in self._held

    def put(self, key: Hashable, medium: PreparedMedium) -> None:
        """Hold a medium, unless it alone is too large."""
        if medium.bytes <= self.limit_bytes:
            with self._lock:
                self._held[key] = medium
                self.trim()

    def prefixes(self, config: str, media: tuple[Hashable, ...]) -> Prefixes | None:
        """Return what prompts about the same media under the same config share; None where they show nothing."""
        if not media:
            return None
        with self._lock:
            key = (config, media)
            found = self._prefixes.pop(key, None) or Prefixes()
            self._prefixes[key] = found
            while len(self._prefixes) > _FEW:
                self._prefixes.popitem(last=False)
            return found

    def trim(self) -> None:
        """Let the oldest go while there is too much: prefixes first, which cost a prompt and no video."""
        with self._lock:
            while self.bytes > self.limit_bytes and len(self._prefixes) > 1:
                self._prefixes.popitem(last=False)
            while self.bytes > self.limit_bytes and len(self._held) > 1:
                self._held.popitem(last=False)
            if self.bytes > self.limit_bytes:
                self._prefixes.clear()

    def facts(self) -> dict[str, Any]:
        """Return what is told of it."""
        return {"media": len(self), "bytes": self.bytes, "limit_bytes": self.limit_bytes, "hits": self.hits,
                "misses": self.misses}  # fmt: skip
