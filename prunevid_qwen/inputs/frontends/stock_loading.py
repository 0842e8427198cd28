"""Loading a processor of transformers: with torchvision or without it, and of downloads that are older than it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from prunevid_qwen.adapters.folder_json import read_json
from prunevid_qwen.errors import PruneVidError, SetupError, quoted
from prunevid_qwen.inputs.frontends.plain_videos import VIDEO_DEFAULTS, PlainVideoProcessor


def load_processor(source: str, model_type: str, hub: dict[str, Any]) -> Any:
    """Load the processor of a model from a folder or a hub id.

    Args:
        source: where the model came from.
        model_type: of its config.
        hub: revision, token, cache_dir, local_files_only.

    Raises:
        SetupError: it is not there, or needs a package that is not installed.
    """
    from transformers import AutoProcessor

    with _said_in_words(source, model_type):
        if model_type in VIDEO_DEFAULTS and find_spec("torchvision") is None:
            return _without_torchvision(source, model_type, hub)
        return AutoProcessor.from_pretrained(source, **hub)


def _without_torchvision(source: str, model_type: str, hub: dict[str, Any]) -> Any:
    """Put the stock processor together around a `PlainVideoProcessor`: prompts and images are the library's own."""
    import transformers
    from transformers.models.auto.image_processing_auto import (
        AutoImageProcessor,
    )  # elsewhere it may ask for torchvision
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

    written = read_json(source, "processor_config.json", hub)
    stock: Any = getattr(transformers, written.get("processor_class") or PROCESSOR_MAPPING_NAMES[model_type])
    settings = (
        written.get("video_processor")
        or read_json(source, "video_preprocessor_config.json", hub)
        or read_json(source, "preprocessor_config.json", hub)
    )

    def check(self: Any, name: str, argument: Any) -> Any:
        return type(argument) if name == "video_processor" else stock.check_argument_for_proper_class(
            self, name, argument
        )  # fmt: skip

    parts = {
        "tokenizer": transformers.AutoTokenizer.from_pretrained(source, **hub),
        "image_processor": AutoImageProcessor.from_pretrained(source, **hub),
        "video_processor": PlainVideoProcessor(settings, model_type),
    }
    known, _ = stock.get_processor_dict(source, **hub)
    made: Any = type(stock.__name__, (stock,), {"check_argument_for_proper_class": check})
    return made.from_args_and_dict([parts[name] for name in stock.get_attributes()], known)


def completed(processor: Any, config: Any) -> Any:
    """Give a processor of an old download what its files do not say and the model's config does."""
    if hasattr(processor, "patch_size") and processor.patch_size is None:
        processor.patch_size = config.vision_config.patch_size
        processor.vision_feature_select_strategy = config.vision_feature_select_strategy
        # CLIP's class token, which the strategy "default" takes away again
        processor.num_additional_image_tokens = int(config.vision_config.model_type == "clip_vision_model")
    if hasattr(processor, "num_image_tokens") and processor.num_image_tokens is None:
        seen = config.vision_config
        processor.num_image_tokens = (int(seen.image_size) // int(seen.patch_size)) ** 2
        processor.vision_feature_select_strategy = config.vision_feature_select_strategy
    return processor


def called(processor: Any, texts: list[str], asked: dict[str, Any]) -> Any:
    """Call a processor with what it takes: in older releases some take few arguments and no others.

    Args:
        processor: of transformers.
        texts: a template may have written the first token into them already, as the library's own
            ``apply_chat_template`` minds.
        asked: the arguments, "padding_side" among them.
    """
    tokenizer, parameters = processor.tokenizer, inspect.signature(processor.__call__).parameters
    bos = tokenizer.bos_token
    begun = bos is not None and texts[0].startswith(bos)
    if any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values()):
        return processor(text=texts, add_special_tokens=not begun, **asked)
    side, tokenizer.padding_side = tokenizer.padding_side, asked["padding_side"]
    try:
        given = {name: value for name, value in asked.items() if name in parameters}
        return processor(text=[text.removeprefix(bos) for text in texts] if begun else texts, **given)
    finally:
        tokenizer.padding_side = side


@contextmanager
def _said_in_words(source: str, model_type: str) -> Iterator[None]:
    """Turn what loading a processor raises into what to do next."""
    try:
        yield
    except PruneVidError:
        raise
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
