"""OpenVideos: a model's sessions that several people share, so that each video is read and encoded once for all."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

from prunevid_qwen.adapters.attachments import Turns
from prunevid_qwen.answers.session.open_video import OpenVideo
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.inputs.encoding import Progress


class OpenVideos:
    """Videos that are open for questions, by content and config; those that were asked about last stay.

    Nobody closes them: one that goes is let go of when its last question is answered.

    Args:
        model: a `PrunedVLM` with ``video_cache_bytes``, which also bounds what the sessions hold: their prefixes and
            the encoded videos, counted for each config apart. The last one stays, whatever its size.

    Raises:
        ConfigError: the model holds no videos.
    """

    def __init__(self, model: Any) -> None:
        if model.videos is None:
            raise ConfigError("videos that are shared need a model that holds them: pass video_cache_bytes=...")
        self._model, self._turns = model, Turns()
        self._held: OrderedDict[tuple[Any, ...], OpenVideo] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    @property
    def bytes(self) -> int:
        """Bytes of all that is held, features of a video under two configs twice."""
        return sum(each.bytes + each.prefix_bytes for each in list(self._held.values()))

    def of(self, config: PruneVidConfig, path: str | Path, progress: Progress | None = None) -> OpenVideo:
        """Return the open video of a file under a config; it is read and encoded if none is held.

        One video is opened at a time, and who comes first is first.

        Args:
            config: of the answers.
            path: of the file.
            progress: called with the frames encoded so far and those of the video.
        """
        with self._turns:
            model = self._model.with_config(config)
            key = (config.to_json(), model.videos.key_of(model, str(path), None, None))
            held = self._held.pop(key, None)
            if held is None:
                held = model.open(str(path), progress=progress)
            self._held[key] = held
            while len(self._held) > 1 and self.bytes > self._model.videos.limit_bytes:
                self._held.popitem(last=False)
            return held
