"""The library's own processor as a frontend: for every family that this package does not read for itself.

Pixels and placeholders are the processor's, so that answers without pruning are those of the stock model and its
processor, bit for bit. Without torchvision the library's PIL arithmetic is used, and with it torchvision's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from PIL import Image
from torch import Tensor

from prunevid_qwen.adapters.vision import EncodedVideos
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.errors import ConfigError, SetupError, UnknownOption, quoted
from prunevid_qwen.inputs.frontends.frontend import not_shown
from prunevid_qwen.inputs.frontends.templates import DEFAULT_TEMPLATES
from prunevid_qwen.inputs.messages import Item, read_messages
from prunevid_qwen.inputs.qwen.preprocessor import PromptSource
from prunevid_qwen.video.picture import Picture


class StockFrontend:
    """Builds the inputs of one model with a processor of transformers. It reads images alone.

    Args:
        processor: of the model; its chat template is used, else its tokenizer's, else the family's default.
        config: of the model.

    Raises:
        SetupError: there is no chat template, or something that is no processor.
    """

    reads: tuple[str, ...] = ("image",)

    def __init__(self, processor: Any, config: Any) -> None:
        self.model_type = str(config.model_type)
        for part in ("tokenizer", "image_processor"):
            if getattr(processor, part, None) is None:
                raise SetupError(
                    f"a {self.model_type} model needs a processor with a tokenizer and an image processor, and this "
                    f"{type(processor).__name__} has no {part}: download the model's processor files (tokenizer.json, "
                    "preprocessor_config.json, processor_config.json) beside its weights"
                )
        self.processor = _completed(processor, config)
        self.tokenizer: Any = processor.tokenizer
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.image_token = str(getattr(processor, "image_token", "<image>"))
        self.template = _template(processor) or _template(self.tokenizer) or DEFAULT_TEMPLATES.get(self.model_type)
        if self.template is None:
            raise SetupError(
                f"neither the processor nor its tokenizer has a chat template, and none is known for the family "
                f"{self.model_type}: set processor.chat_template"
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
        from transformers import AutoConfig, AutoProcessor

        with _said_in_words(source, model_type):
            processor = AutoProcessor.from_pretrained(source, **hub)
        return cls(processor, AutoConfig.from_pretrained(source, **hub))

    @classmethod
    def beside(cls, model: Any, tokenizer: Any = None, processor: Any = None) -> StockFrontend:
        """Make one for a loaded model and its processor.

        Raises:
            ConfigError: no processor, or a tokenizer beside it.
        """
        if processor is None:
            raise ConfigError(
                f"a loaded {model.config.model_type} model needs its processor= (AutoProcessor.from_pretrained): its "
                "images are read by that"
            )
        if tokenizer is not None:
            raise ConfigError("the processor brings its tokenizer: pass processor= alone")
        return cls(processor, model.config)

    # ---- prompts

    def sample(
        self,
        messages: Sequence[dict[str, Any]],
        config: PruneVidConfig,
        read_video: Callable[..., Any] | None = None,
    ) -> PromptSource:
        """Read the images of a conversation and write it as text.

        Args:
            messages: as in `inputs.qwen.preprocessor`; items are text and images, and say
                nothing of an image's size.
            config: see `read_image`.
            read_video: called for an item that is a video, if given, and refuses it in its own words.

        Raises:
            ConfigError: a message or item is malformed, or has a key that is not read; the text holds placeholders.
            UnsupportedError: an item is a video.
        """
        media: list[Picture] = []

        def item(each: Item) -> dict[str, Any]:
            if each.kind == "image":
                own = isinstance(each.held, Picture)
                media.append(each.held if own else self.read_image(each.held, config, **each.options))
            elif each.kind == "video":
                (read_video or self._refuse)(each.held, config, **each.options)
            return _plain(each)

        return PromptSource(self._written(messages, item), tuple(media))

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
        shown = sum(each["type"] == "image" for turn in plain for each in turn["content"])
        if text.count(self.image_token) != shown:
            raise ConfigError(
                f"the prompt has {text.count(self.image_token)} placeholders {self.image_token}, but brings {shown} "
                f"images: leave {self.image_token} out of the text, and check that the chat template knows images"
            )
        return text

    # ---- media

    def read_image(self, source: Any, config: PruneVidConfig, **options: Any) -> Picture:
        """Read one image, whose size the processor will choose.

        Raises:
            ConfigError: ``config`` or ``options`` ask for a size.
            MediaError: missing or unreadable.
        """
        asked = [*options, *(["max_pixels"] if config.max_pixels is not None else [])]
        if asked:
            raise UnknownOption(
                f"the processor of a {self.model_type} model gives images their size, and does not read "
                f"{', '.join(asked)}: leave it out"
            )
        return Picture.of(source)

    def open_video(self, source: Any, config: PruneVidConfig, tower: Any, **options: Any) -> Any:
        """Refuse a video.

        Raises:
            UnsupportedError: always.
        """
        return self._refuse()

    def _refuse(self, *_given: Any, **_options: Any) -> Any:
        raise not_shown("video", self.model_type, self.reads)

    def memory(self, tower: Any, videos: EncodedVideos | None = None) -> AbstractContextManager[None]:
        """Nothing is encoded ahead: the stock model encodes its images itself, in each call."""
        return nullcontext()

    # ---- inputs

    def batch(self, samples: Sequence[PromptSource]) -> dict[str, Tensor]:
        """Let the processor make everything that the stock ``generate`` takes, padded on the left."""
        pictures = [each for sample in samples for each in sample.media if isinstance(each, Picture)]
        texts = [sample.text for sample in samples]
        bos = self.tokenizer.bos_token
        made = self.processor(
            images=[Image.fromarray(each.pixels) for each in pictures] or None,
            text=texts,
            padding=True,
            padding_side="left",
            return_tensors="pt",
            # a template may write the first token itself, as the library's own apply_chat_template minds
            add_special_tokens=bos is None or not texts[0].startswith(bos),
        )
        for each in pictures:
            each.facts["resized"] = list(made["pixel_values"].shape[-2:])
        return {name: value for name, value in made.items() if isinstance(value, Tensor)}


def _items(content: str | list[Item]) -> list[Item]:
    return [Item("text", content)] if isinstance(content, str) else content


def _plain(item: Item) -> dict[str, Any]:
    return {"type": "text", "text": item.held} if item.kind == "text" else {"type": item.kind}


def _template(owner: Any) -> str | None:
    template = getattr(owner, "chat_template", None)
    template = template.get("default") if isinstance(template, Mapping) else template
    return template or None


def _completed(processor: Any, config: Any) -> Any:
    """Give a processor of an old download what its files do not say and the model's config does."""
    if hasattr(processor, "patch_size") and processor.patch_size is None:
        processor.patch_size = config.vision_config.patch_size
        processor.vision_feature_select_strategy = config.vision_feature_select_strategy
        # CLIP's class token, which the strategy "default" takes away again
        processor.num_additional_image_tokens = int(config.vision_config.model_type == "clip_vision_model")
    return processor


@contextmanager
def _said_in_words(source: str, model_type: str) -> Iterator[None]:
    """Turn what loading a processor raises into what to do next."""
    try:
        yield
    except ImportError as error:
        raise SetupError(
            f"the processor of {quoted(source)} (a {model_type} model) needs a package that is not installed: "
            f"{_first_line(error)}\nInstall it (torchvision has to match torch: pip install torchvision beside the "
            "same torch), or another release of transformers, whose processor may need none"
        ) from error
    except RuntimeError as error:
        if "torchvision" not in str(error):
            raise
        raise SetupError(
            f"the installed torchvision does not match torch: {_first_line(error)}\nInstall the one of this torch, or "
            "none where the library's PIL processor will do: pip uninstall torchvision"
        ) from error
    except (OSError, ValueError, TypeError) as error:
        raise SetupError(
            f"cannot load the processor of {quoted(source)} (a {model_type} model): {_first_line(error)}\nIts files "
            "(tokenizer.json, tokenizer_config.json, preprocessor_config.json, processor_config.json) belong beside "
            f"the weights: `hf download {source}` brings them where there is a network"
        ) from error


def _first_line(error: Exception) -> str:
    said = str(error).strip().splitlines()
    return said[0] if said else type(error).__name__
