"""What the class that answers knows of reading for a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from torch import Tensor

from prunevid_qwen.adapters.vision import EncodedVideos
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.errors import UnsupportedError
from prunevid_qwen.inputs.qwen.preprocessor import PromptSource


class Frontend(Protocol):
    """Turns files and chat messages into what a stock model takes.

    ``reads`` are the kinds of media that the model can be shown, "video" and "image"; any other is refused when it is
    opened, before a model runs. ``needs_torchvision``: it reads nothing where torchvision is not installed. ``uneven``
    are the kinds that are cropped or padded before the model sees them, so that its cells do not cut a frame evenly.
    """

    reads: tuple[str, ...]
    needs_torchvision: bool

    @property
    def uneven(self) -> tuple[str, ...]:
        """See the class."""
        ...

    @classmethod
    def reads_of(cls, model_type: str) -> tuple[str, ...]:
        """Return the kinds of media that the models of a family are shown."""
        ...

    @classmethod
    def from_pretrained(cls, source: str, model_type: str, **hub: Any) -> Frontend:
        """Make one of the files beside a model, in a folder or on the hub."""
        ...

    @classmethod
    def beside(cls, model: Any, tokenizer: Any = None, processor: Any = None) -> Frontend:
        """Make one for a loaded model of what its owner has."""
        ...

    @property
    def tokenizer(self) -> Any:
        """The tokenizer in use."""
        ...

    def sample(
        self,
        messages: Sequence[dict[str, Any]],
        config: PruneVidConfig,
        read_video: Callable[..., Any] | None = None,
    ) -> PromptSource:
        """Read what a conversation shows and write it as text; see `inputs.qwen.preprocessor`."""
        ...

    def text(self, messages: Sequence[dict[str, Any]]) -> str:
        """Write a conversation as text, as `sample` does, and read nothing of what it shows."""
        ...

    def batch(self, samples: Sequence[PromptSource]) -> dict[str, Tensor]:
        """Make the inputs of ``generate``, padded on the left: input_ids and attention_mask [B, S], pixels and more."""
        ...

    def read_image(self, source: Any, config: PruneVidConfig, **options: Any) -> Any:
        """Read one image; ``options`` are those of an item of a message."""
        ...

    def open_video(self, source: Any, config: PruneVidConfig, tower: Any, **options: Any) -> Any:
        """Open a video for the vision tower ``tower``; it is read as it is encoded, and closed by ``close``."""
        ...

    def memory(self, tower: Any, videos: EncodedVideos | None = None) -> AbstractContextManager[EncodedVideos | None]:
        """Let ``tower`` answer for videos that are encoded ahead and shared; yields None where nothing is.

        Args:
            tower: the vision tower.
            videos: encoded before; None starts with none.
        """
        ...


def not_shown(kind: str, model_type: str, reads: Sequence[str], what: str = "the model") -> UnsupportedError:
    """Make the error for a kind of medium that the models of a family are not shown.

    Args:
        kind: "video" or "image".
        model_type: of the family.
        reads: kinds that it is shown.
        what: the model, as the error is to call it.
    """
    shown = " and ".join(f"{each}s" for each in reads)
    return UnsupportedError(
        f"{what} is of the family {model_type}, which accepts {shown} and no {kind}: pass pictures as images= "
        f"(--image), such as some frames of the video, or choose a model that accepts {kind}s, such as a Qwen2.5-VL"
    )
