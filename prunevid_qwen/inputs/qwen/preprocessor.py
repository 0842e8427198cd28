"""From chat messages to what a stock Qwen-VL model takes. Needs a tokenizer, no torchvision, no processor.

The stock processor cannot be built without torchvision; its arithmetic lives in `pixels`, its text side is here: each
``<|video_pad|>`` that the chat template wrote becomes as many as the video has visual tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prunevid_qwen.adapters.folder_json import read_json
from prunevid_qwen.adapters.vision import EncodedVideos, vision_from_memory
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.errors import ConfigError, SetupError
from prunevid_qwen.inputs.messages import Item, read_messages
from prunevid_qwen.inputs.qwen.media import MediaReader, Medium, VideoFeed
from prunevid_qwen.inputs.qwen.pixel_options import STOCK
from prunevid_qwen.tokens.device import input_device
from prunevid_qwen.video.clip import Clip
from prunevid_qwen.video.picture import Picture

ReadVideo = Callable[..., Any]


@dataclass(frozen=True, eq=False)
class PromptSource:
    """One prompt: the text of the chat template and its media, in order; a video may only be opened yet."""

    text: str
    media: tuple[Medium | VideoFeed | Picture | Clip, ...]


class Preprocessor:
    """Builds the inputs of a Qwen2.5-VL or Qwen2-VL: the `prunevid_qwen.inputs.frontends.Frontend` of these families.

    Args:
        tokenizer: a transformers tokenizer with Qwen's special tokens and a chat template.
        media: reads videos and images as the model wants them.
        model_type: of the model; only "qwen2_5_vl" takes seconds per grid.
    """

    reads: tuple[str, ...] = ("video", "image")
    needs_torchvision = False
    uneven: tuple[str, ...] = ()  # frames are resized as a whole
    settings = "qwen"  # whose stock settings of pixels: a key of `pixel_options.STOCK`

    @classmethod
    def reads_of(cls, model_type: str) -> tuple[str, ...]:
        """Return the kinds of media that the models of a family are shown: all."""
        return cls.reads

    def __init__(self, tokenizer: Any, media: MediaReader, model_type: str) -> None:
        self.tokenizer, self.media, self.model_type = tokenizer, media, model_type
        self.pads = {"video": "<|video_pad|>", "image": "<|image_pad|>"}
        self.pad_ids = {kind: tokenizer.convert_tokens_to_ids(pad) for kind, pad in self.pads.items()}
        if any(number is None or number == tokenizer.unk_token_id for number in self.pad_ids.values()):
            raise SetupError(
                f"the tokenizer has no {' and '.join(self.pads.values())}: pass the tokenizer of a Qwen-VL model"
            )

    @classmethod
    def from_pretrained(cls, source: str, model_type: str, **hub: Any) -> Preprocessor:
        """Read tokenizer and pixel settings from a folder or a hub id.

        Args:
            source: where the model came from.
            model_type: of its config.
            hub: revision, token, cache_dir, local_files_only.
        """
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(source, **hub)
        if not tokenizer.chat_template:
            tokenizer.chat_template = read_json(source, "chat_template.json", hub).get("chat_template")
        return cls(tokenizer, MediaReader.from_pretrained(source, **hub), model_type)

    @classmethod
    def beside(cls, model: Any, tokenizer: Any = None, processor: Any = None) -> Preprocessor:
        """Make one for a loaded model from what its owner has: a processor, or a tokenizer and where it came from.

        Raises:
            ConfigError: neither is given.
        """
        if processor is None and tokenizer is None:
            raise ConfigError("a loaded model needs its tokenizer or processor: pass tokenizer= or processor=")
        source = str(getattr(model, "name_or_path", "") or "")
        if processor is not None:
            media = MediaReader.of_processor(processor, cls.settings)
        elif source and Path(source).is_dir():
            media = MediaReader.from_pretrained(source)
        else:
            media = MediaReader(**STOCK[cls.settings])
        return cls(processor.tokenizer if tokenizer is None else tokenizer, media, model.config.model_type)

    # ---- prompts

    def sample(
        self, messages: Sequence[dict[str, Any]], config: PruneVidConfig, read_video: ReadVideo | None = None
    ) -> PromptSource:
        """Read the media of a conversation and write it as text.

        Args:
            messages: chat messages; content is a string or a list of items such as ``{"type": "text", "text": ...}``,
                ``{"type": "video", "video": source, "fps": 2, "start": 1.5}``, ``{"type": "image", "image": source}``
                ("path" and "url" are accepted as names of the source), or ``{"type": "image_url", "image_url":
                {"url": ...}}`` and the same with "video_url". Images may be ``data:`` URIs. A video takes "start" and
                "end" (or "video_start" and "video_end"), "nframes" or "fps" with "min_frames", and "max_frames". Its
                frames take "min_pixels", "max_pixels" and "total_pixels", or both "resized_height" and "resized_width",
                which are rounded to multiples of 28 (Qwen3-VL: 32); an image takes these but "total_pixels". Keys that
                are None are passed over, all others refused. A last message of the assistant is continued.
            config: how videos are sampled.
            read_video: called as `MediaReader.read_video` and instead of it.

        Raises:
            ConfigError: a message or item is malformed, or has a key that is not read; the text holds placeholders.
        """
        media: list[Medium | VideoFeed] = []
        read = read_video or self.media.read_video

        def item(each: Item) -> dict[str, Any]:
            if each.kind != "text":
                media.append(self._read(each, config, read))
            return _plain(each)

        text = self._written(messages, item)
        return PromptSource(text, tuple(media))

    def text(self, messages: Sequence[dict[str, Any]]) -> str:
        """Write a conversation as text, as `sample` does, and read nothing of what it shows."""
        return self._written(messages, _plain)

    def _written(self, messages: Sequence[dict[str, Any]], item: Callable[[Item], dict[str, Any]]) -> str:
        plain: list[dict[str, Any]] = []
        for role, content in read_messages(messages):
            plain.append({"role": role, "content": content if isinstance(content, str) else list(map(item, content))})
        ours = plain[-1]["role"] == "assistant"
        text = self.tokenizer.apply_chat_template(
            plain, tokenize=False, add_generation_prompt=not ours, continue_final_message=ours
        )
        written = [kind for kind, _ in _placeholders(text, self.pads)]
        shown = [each["type"] for turn in plain if not isinstance(turn["content"], str) for each in turn["content"]]
        shown = [kind for kind in shown if kind != "text"]
        if written != shown:
            raise ConfigError(
                f"the prompt has placeholders for {written or 'no media'}, but media {shown or 'none'}: leave "
                f"{', '.join(self.pads.values())} out of the text, and check that the tokenizer's chat template "
                "supports images and videos"
            )
        return text

    def _read(self, item: Item, config: PruneVidConfig, read_video: ReadVideo) -> Medium | VideoFeed:
        if isinstance(item.held, (Medium, VideoFeed)):
            if item.held.kind != item.kind:
                raise ConfigError(f"an item of type {item.kind} holds a {item.held.kind}: correct its type")
            return item.held
        if item.kind == "video":
            return read_video(item.held, config, **item.options)  # type: ignore[no-any-return]
        return self.media.read_image(item.held, config, **item.options)

    # ---- media

    def read_image(self, source: Any, config: PruneVidConfig, **options: Any) -> Medium:
        """Read one image, see `MediaReader.read_image`."""
        return self.media.read_image(source, config, **options)

    def open_video(self, source: Any, config: PruneVidConfig, tower: Any, **options: Any) -> VideoFeed:
        """Open a video, which is read in chunks for the vision tower; see `MediaReader.open_video`."""
        pin = input_device(tower).type == "cuda"
        return self.media.open_video(source, config, dtype=tower.dtype, pin=pin, **options)

    def memory(self, tower: Any, videos: EncodedVideos | None = None) -> AbstractContextManager[EncodedVideos]:
        """Let ``tower`` answer for videos that it encoded ahead: each is encoded once, whoever shows it."""
        return vision_from_memory(tower, videos)

    # ---- inputs

    def batch(self, samples: Sequence[PromptSource]) -> dict[str, Tensor]:
        """Tokenize and left-pad samples of different lengths; concatenate their pixels in order.

        Returns:
            input_ids, attention_mask [B, S], mm_token_type_ids [B, S] and, where there are any, pixel values, grids and
            seconds per grid: everything that the stock ``generate`` takes.
        """
        rows = [self._ids(sample) for sample in samples]
        width = max(len(row) for row in rows)
        pad = self.tokenizer.pad_token_id
        ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows])
        out: dict[str, Tensor] = {
            "input_ids": ids,
            "attention_mask": torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows]),
            "mm_token_type_ids": ((ids == self.pad_ids["image"]).int() + 2 * (ids == self.pad_ids["video"]).int()),
        }
        for kind, pixels, grid in (
            ("video", "pixel_values_videos", "video_grid_thw"),
            ("image", "pixel_values", "image_grid_thw"),
        ):
            media = [medium for sample in samples for medium in _read(sample) if medium.kind == kind]
            if media:
                out[pixels] = torch.cat([medium.pixels for medium in media])
                out[grid] = torch.cat([medium.grid for medium in media])
                if kind == "video" and self.model_type == "qwen2_5_vl":
                    out["second_per_grid_ts"] = torch.tensor([medium.seconds_per_grid for medium in media])
        return out

    def _ids(self, sample: PromptSource) -> list[int]:
        pieces, done = [], 0
        for medium, (kind, at) in zip(_read(sample), _placeholders(sample.text, self.pads), strict=True):
            start, stop, written = self._written_out(medium, sample.text, at, at + len(self.pads[kind]))
            pieces += [sample.text[done:start], written]
            done = stop
        pieces.append(sample.text[done:])
        # not verbose: how long a prompt may be is no matter of the tokens before pruning
        ids: list[int] = self.tokenizer("".join(pieces), add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    def _written_out(self, medium: Medium, text: str, start: int, stop: int) -> tuple[int, int, str]:
        """Return which part of ``text`` a medium with the placeholder ``text[start:stop]`` replaces, and with what."""
        return start, stop, self.pads[medium.kind] * (int(medium.grid.prod()) // self.media.merge_size**2)


def _plain(item: Item) -> dict[str, Any]:
    return {"type": "text", "text": item.held} if item.kind == "text" else {"type": item.kind}


def _read(sample: PromptSource) -> list[Medium]:
    media = [medium for medium in sample.media if isinstance(medium, Medium)]
    if len(media) < len(sample.media):
        raise ConfigError("a video of this sample was opened, but is not encoded yet: how long it is is not known")
    return media


def _placeholders(text: str, pads: dict[str, str]) -> list[tuple[str, int]]:
    found = []
    for kind, pad in pads.items():
        at = text.find(pad)
        while at >= 0:
            found.append((kind, at))
            at = text.find(pad, at + len(pad))
    return sorted(found, key=lambda each: each[1])
