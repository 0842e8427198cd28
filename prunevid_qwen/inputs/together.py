"""Media that were prepared one by one, put into the prompts of one call: each is encoded once for all calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from prunevid_qwen.adapters.vision import EncodedVideos, Features
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.forward.prefix import Prefixes
from prunevid_qwen.inputs.frontends import Frontend
from prunevid_qwen.inputs.prepared import Prepared
from prunevid_qwen.inputs.qwen.media import Medium, VideoFeed
from prunevid_qwen.video.clip import Clip
from prunevid_qwen.video.picture import Picture


@dataclass(frozen=True, eq=False)
class PreparedMedium:
    """A video or an image that any prompt may show.

    Args:
        medium: read; the pixels of an encoded one are a number.
        encoded: holds its features; None where the model encodes in each answer.
        features: of it; None with ``encoded``.
    """

    medium: Medium | Picture | Clip
    encoded: EncodedVideos | None = None
    features: Features | None = None

    @classmethod
    def of(cls, prepared: Prepared) -> PreparedMedium:
        """Return the only medium of a prepared prompt.

        Raises:
            ConfigError: it shows none, or several.
        """
        media = [each for sample in prepared.samples for each in sample.media if not isinstance(each, VideoFeed)]
        if len(media) != 1:
            raise ConfigError(f"a prepared medium is the only one of its prompt, got {len(media)}: prepare each alone")
        if prepared.encoded is None:
            return cls(media[0])
        return cls(media[0], prepared.encoded, prepared.encoded.features[0])

    @property
    def bytes(self) -> int:
        """Bytes that it holds: of its features, or of its frames."""
        if self.features is not None:
            return sum(each.nbytes for each in self.features if each is not None)
        held = self.medium.frames if isinstance(self.medium, Clip) else self.medium.pixels
        return int(held.nbytes)


def together(
    frontend: Frontend,
    config: PruneVidConfig,
    tower: Any,
    conversations: Sequence[Sequence[Mapping[str, Any]]],
    asked: Sequence[str],
    prefixes: Prefixes | None = None,
) -> Prepared:
    """Return several prompts as one padded batch for `PrunedVLM.answer`.

    Args:
        frontend: of the model.
        config: of the answers.
        tower: the vision tower.
        conversations: chat messages; an item that shows something holds a `PreparedMedium` under its kind.
        asked: the words of each question.
        prefixes: what all of these prompts share, if they are about the same media.
    """
    encoded: EncodedVideos | None = None
    rows = []
    for messages in conversations:
        row = []
        for message in messages:
            content = message["content"]
            if not isinstance(content, str):
                items = []
                for item in content:
                    kind = item["type"]
                    shown = item.get(kind)
                    if isinstance(shown, PreparedMedium):
                        if shown.encoded is not None:
                            encoded = encoded or EncodedVideos(tower)
                        item = {"type": kind, kind: _placed(shown, encoded)}
                    items.append(item)
                content = items
            row.append({"role": message["role"], "content": content})
        rows.append(row)
    samples = tuple(frontend.sample(row, config) for row in rows)
    with torch.inference_mode(False):
        inputs = frontend.batch(samples)
    seconds = {"read": 0.0, "vision": 0.0, "total": 0.0}
    return Prepared(samples, False, encoded, inputs, seconds, asked=tuple(asked), prefixes=prefixes)


def _placed(shown: PreparedMedium, encoded: EncodedVideos | None) -> Medium | Picture | Clip:
    if shown.encoded is None or encoded is None or shown.features is None:
        return shown.medium
    assert isinstance(shown.medium, Medium)
    return replace(shown.medium, pixels=encoded.taken(shown.features, shown.encoded))
