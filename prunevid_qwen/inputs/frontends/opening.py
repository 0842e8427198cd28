"""The media of one call, opened: read as they are encoded, and closed when the call ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.inputs.frontends.frontend import Frontend
from prunevid_qwen.inputs.qwen.preprocessor import PromptSource
from prunevid_qwen.inputs.sources import conversations


@contextmanager
def opened_samples(
    frontend: Frontend, config: PruneVidConfig, tower: Any, video_path: Any, question: Any, *given: Any
) -> Iterator[tuple[list[PromptSource], bool]]:
    """Open what a call shows; yield its prompts, and whether one question was asked and not a list.

    Args:
        frontend: of the model.
        config: how videos and images are read.
        tower: the vision tower, which videos are made ready for.
        video_path, question: as in `prunevid_qwen.model.PrunedVLM.generate`.
        given: its images, messages, start and end.

    Raises:
        UnsupportedError: something that the model is not shown.
        ConfigError, MediaError: as `prunevid_qwen.model.PrunedVLM.generate`.
    """
    with ExitStack() as stack:

        def open_video(source: Any, config: PruneVidConfig, **options: Any) -> Any:
            feed = frontend.open_video(source, config, tower, **options)
            stack.callback(feed.close)
            return feed

        asked, single = conversations(config, frontend.read_image, open_video, video_path, question, *given)
        yield [frontend.sample(each, config, open_video) for each in asked], single
