"""The library's own processor as a frontend: for every family that this package does not read for itself.

Pixels and placeholders are the processor's, so that answers without pruning are those of the stock model and its
processor, bit for bit. Images are read by the library's PIL arithmetic where torchvision is not installed, and videos
by `plain_videos`, which makes the same pixels as the library's. Frames are chosen here, by their times.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from PIL import Image
from torch import Tensor

from prunevid_qwen.adapters.vision import EncodedVideos
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.errors import ConfigError, SetupError, UnknownOption, UnsupportedError
from prunevid_qwen.inputs.frontends.frontend import not_shown
from prunevid_qwen.inputs.frontends.plain_videos import VIDEO_DEFAULTS
from prunevid_qwen.inputs.frontends.stock_loading import called, completed, load_processor
from prunevid_qwen.inputs.frontends.templates import default_template
from prunevid_qwen.inputs.messages import Item, read_messages
from prunevid_qwen.inputs.qwen.preprocessor import PromptSource
from prunevid_qwen.video.clip import Clip
from prunevid_qwen.video.picture import Picture

_PIXELS = {"image": ("pixel_values", "pixel_values_images"), "video": ("pixel_values_videos", "pixel_values")}
_SIZES = ("min_pixels", "max_pixels", "total_pixels", "resized")


class StockFrontend:
    """Builds the inputs of one model with a processor of transformers: of images, and of videos where it accepts them.

    Args:
        processor: of the model; its chat template is used, else its tokenizer's, else the family's default.
        config: of the model.

    Attributes:
        pad_to_square: images are padded to squares with the processor's mean colour before the processor resizes
            them, so that nothing is cropped, as the authors of LLaVA-1.5 do. False leaves them to the processor.

    Raises:
        SetupError: there is no chat template, or something that is no processor.
    """

    needs_torchvision = False  # images go through the library's PIL arithmetic, videos through `plain_videos`
    pad_to_square = False

    @classmethod
    def reads_of(cls, model_type: str) -> tuple[str, ...]:
        """Return the kinds of media that the models of a family are shown."""
        return ("video", "image") if model_type in VIDEO_DEFAULTS else ("image",)

    def __init__(self, processor: Any, config: Any) -> None:
        self.model_type = str(config.model_type)
        self.reads = self.reads_of(self.model_type)
        for part in ("tokenizer", *(f"{kind}_processor" for kind in self.reads)):
            if getattr(processor, part, None) is None:
                raise SetupError(
                    f"a {self.model_type} model needs a processor with a tokenizer and a processor of what it is shown "
                    f"({' and '.join(f'{kind}s' for kind in self.reads)}), and this "
                    f"{type(processor).__name__} has no {part}: download the model's processor files (tokenizer.json, "
                    "preprocessor_config.json, processor_config.json) beside its weights"
                )
        self.processor = completed(processor, config)
        self.tokenizer: Any = processor.tokenizer
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.marks = {kind: str(getattr(processor, f"{kind}_token", f"<{kind}>")) for kind in self.reads}
        self.template = _template(processor) or _template(self.tokenizer) or default_template(config)
        if self.template is None:
            raise SetupError(
                f"neither the processor nor its tokenizer has a chat template, and none is known for the family "
                f"{self.model_type}: set processor.chat_template"
            )

    @property
    def uneven(self) -> tuple[str, ...]:
        """The kinds that the processor crops or pads, or that are padded to squares."""
        crops = {kind: getattr(self.processor, f"{kind}_processor", None) for kind in self.reads}
        changed = ("do_center_crop", "do_pad", "do_image_splitting", "crop_to_patches")
        return tuple(
            kind
            for kind, own in crops.items()
            if (kind == "image" and self.pad_to_square) or any(getattr(own, name, None) for name in changed)
        )

    @classmethod
    def from_pretrained(cls, source: str, model_type: str, **hub: Any) -> StockFrontend:
        """Load the processor from a folder or a hub id.

        Args:
            source: where the model came from.
            model_type: of its config.
            hub: revision, token, cache_dir, local_files_only.

        Raises:
            SetupError: it is not there, or needs a package that is not installed.
        """
        from transformers import AutoConfig

        return cls(load_processor(source, model_type, hub), AutoConfig.from_pretrained(source, **hub))

    @classmethod
    def beside(cls, model: Any, tokenizer: Any = None, processor: Any = None) -> StockFrontend:
        """Make one for a loaded model and its processor.

        Raises:
            ConfigError: no processor, or a tokenizer beside it.
        """
        if processor is None:
            raise ConfigError(
                f"a loaded {model.config.model_type} model needs its processor, which reads what it is shown: pass "
                "processor=AutoProcessor.from_pretrained(...), or the folder or hub id instead of the model"
            )
        if tokenizer is not None:
            raise ConfigError("the processor has a tokenizer already: pass processor= alone")
        return cls(processor, model.config)

    # ---- prompts

    def sample(
        self,
        messages: Sequence[dict[str, Any]],
        config: PruneVidConfig,
        read_video: Callable[..., Any] | None = None,
    ) -> PromptSource:
        """Read what a conversation shows and write it as text.

        Args:
            messages: as in `inputs.qwen.preprocessor`, but the items say nothing of the size of images and frames.
            config: see `read_image` and `open_video`.
            read_video: called for an item that is a video, if given, with what `open_video` takes.

        Raises:
            ConfigError: a message or item is malformed, or has a key that is not read; the text holds placeholders.
            UnsupportedError: an item is a video, and the family is shown none.
        """
        media: list[Picture | Clip] = []

        def item(each: Item) -> dict[str, Any]:
            if each.kind != "text":
                media.append(self._read(each, config, read_video))
            return _plain(each)

        return PromptSource(self._written(messages, item), tuple(media))

    def _read(self, item: Item, config: PruneVidConfig, read_video: Callable[..., Any] | None) -> Any:
        if isinstance(item.held, (Picture, Clip)):
            if item.held.kind != item.kind:
                raise ConfigError(f"an item of type {item.kind} holds a {item.held.kind}: correct its type")
            return item.held
        if item.kind == "image":
            return self.read_image(item.held, config, **item.options)
        if read_video is not None:
            return read_video(item.held, config, **item.options)
        return self.open_video(item.held, config, None, **item.options)

    def text(self, messages: Sequence[dict[str, Any]]) -> str:
        """Write a conversation as text, as `sample` does, and read nothing of what it shows."""
        return self._written(messages, _plain)

    def _written(self, messages: Sequence[dict[str, Any]], item: Callable[[Item], dict[str, Any]]) -> str:
        # templates of these families read lists of items alone, and leave out a string without a word
        plain: list[dict[str, Any]] = [
            {"role": role, "content": [item(each) for each in _items(content)]}
            for role, content in read_messages(messages)
        ]
        ours = plain[-1]["role"] == "assistant"
        text = str(
            self.tokenizer.apply_chat_template(
                plain,
                chat_template=self.template,
                tokenize=False,
                add_generation_prompt=not ours,
                continue_final_message=ours,
            )
        )
        shown = [each["type"] for turn in plain for each in turn["content"]]
        for kind, mark in self.marks.items():
            if text.count(mark) != shown.count(kind):
                raise ConfigError(
                    f"the prompt has {text.count(mark)} placeholders {mark}, but {shown.count(kind)} {kind}s: leave "
                    f"{mark} out of the text, and check that the chat template supports {kind}s"
                )
        return text

    # ---- media

    def read_image(self, source: Any, config: PruneVidConfig, **options: Any) -> Picture:
        """Read one image, whose size the processor will choose.

        Raises:
            ConfigError: ``config`` or ``options`` ask for a size.
            MediaError: missing or unreadable.
        """
        self._check_no_size("images", [*options], config)
        picture = Picture.of(source)
        if not self.pad_to_square:
            return picture
        mean = self.processor.image_processor.image_mean
        return picture.squared((int(mean[0] * 255), int(mean[1] * 255), int(mean[2] * 255)))

    def open_video(self, source: Any, config: PruneVidConfig, tower: Any, **options: Any) -> Clip:
        """Read the frames of a video that are chosen by their times; the processor will choose their size.

        Args:
            source: as `prunevid_qwen.video.read_video` takes it.
            config: how it is sampled.
            tower: not needed: nothing is encoded ahead.
            options: of an item of a message: start, end, fps, max_frames, min_frames.

        Raises:
            UnsupportedError: the models of this family are shown no video.
            ConfigError: ``config`` or ``options`` ask for a size.
            MediaError: missing or unreadable.
        """
        if "video" not in self.reads:
            raise not_shown("video", self.model_type, self.reads)
        self._check_no_size("videos", [name for name in options if name in _SIZES], config)
        return clip_of(source, config, **options)

    def _check_no_size(self, what: str, named: list[str], config: PruneVidConfig) -> None:
        limits = ("max_pixels", "total_pixels") if what == "videos" else ("max_pixels",)
        asked = [*named, *(name for name in limits if getattr(config, name) is not None)]
        if asked:
            raise UnknownOption(
                f"the processor of a {self.model_type} model gives {what} their size, and does not read "
                f"{', '.join(asked)}: leave it out"
            )

    def memory(self, tower: Any, videos: EncodedVideos | None = None) -> AbstractContextManager[None]:
        """Nothing is encoded ahead: the stock model encodes what it is shown itself, in each call."""
        return nullcontext()

    # ---- inputs

    def batch(self, samples: Sequence[PromptSource]) -> dict[str, Tensor]:
        """Let the processor make everything that the stock ``generate`` takes, padded on the left.

        Raises:
            UnsupportedError: the videos of the samples differ in their number of frames: the model takes one tensor.
        """
        pictures = [[each for each in sample.media if isinstance(each, Picture)] for sample in samples]
        clips = [each for sample in samples for each in sample.media if isinstance(each, Clip)]
        lengths = {len(each.frames) for each in clips}
        if len(lengths) > 1:
            raise UnsupportedError(
                f"a {self.model_type} model takes videos of one number of frames in a call, got "
                f"{' and '.join(map(str, sorted(lengths)))}: ask about each video in a call of its own, or set "
                "max_frames to the smallest"
            )
        asked: dict[str, Any] = {"padding": True, "return_tensors": "pt", "padding_side": "left"}
        if clips:  # frames are chosen already
            asked["videos"] = [each.frames for each in clips]
            asked |= {"do_sample_frames": False, "video_metadata": [each.metadata for each in clips]}
        if any(pictures):  # a list for each prompt: several images in one may be treated in another way than one
            asked["images"] = [[Image.fromarray(each.pixels) for each in own] for own in pictures if own]
        made = called(self.processor, [sample.text for sample in samples], asked)
        shown: list[Picture | Clip] = [*(picture for own in pictures for picture in own), *clips]
        for each in shown:
            pixels = next(made[name] for name in _PIXELS[each.kind] if name in made)
            each.facts["resized"] = list(pixels.shape[-2:])
        return {name: value for name, value in made.items() if isinstance(value, Tensor)}


def clip_of(source: Any, config: PruneVidConfig, **options: Any) -> Clip:
    """Read a video as ``config`` samples it; ``options`` as in `StockFrontend.open_video`."""
    asked = {
        "sampling": config.video_sampling,
        "max_frames": config.max_frames,
        "fps": config.fps,
        "backend": config.video_backend,
        "time_limit": config.video_time_limit,
    }
    return Clip.of(source, **{**asked, **options})


def _items(content: str | list[Item]) -> list[Item]:
    return [Item("text", content)] if isinstance(content, str) else content


def _plain(item: Item) -> dict[str, Any]:
    return {"type": "text", "text": item.held} if item.kind == "text" else {"type": item.kind}


def _template(owner: Any) -> str | None:
    template = getattr(owner, "chat_template", None)
    template = template.get("default") if isinstance(template, Mapping) else template
    return template or None
