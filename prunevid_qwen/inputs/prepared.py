"""The prompts of one call with all that they show read and encoded: to be answered often, under any config."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from prunevid_qwen.adapters.seams import cache_of
from prunevid_qwen.adapters.vision import EncodedVideos
from prunevid_qwen.config.media_reading import Reading
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.forward.prefix import Prefixes
from prunevid_qwen.inputs.encoding import Encoding, Progress
from prunevid_qwen.inputs.frontends import Frontend
from prunevid_qwen.inputs.qwen.preprocessor import PromptSource
from prunevid_qwen.video.picture import Picture
from prunevid_qwen.vision.options import VisionOptions, vision_options

_MADE = ("inputs", "input_ids", "inputs_embeds", "attention_mask", "mm_token_type_ids", "pixel_values",
         "pixel_values_videos", "image_grid_thw", "video_grid_thw", "second_per_grid_ts", "image_sizes",
         "batch_num_images")  # fmt: skip


@dataclass(frozen=True, eq=False)
class Prepared:
    """What `PrunedVLM.prepare` made of a call, for `PrunedVLM.answer`.

    Args:
        samples: the prompts; numbers of encoded videos and images stand for pixels.
        single: one question was asked, not a list.
        encoded: holds the features; None where the model encodes its images in each answer.
        inputs: of ``generate``, on the CPU.
        seconds: "read" (reading that the encoder did not hide, and making the inputs), "vision" (the encoder) and
            "total".
        vision: what was asked of the vision encoder.
        asked: the words of each question.
        prefixes: what its questions share with others about the same video; None where nothing is kept for others.
    """

    samples: tuple[PromptSource, ...]
    single: bool
    encoded: EncodedVideos | None
    inputs: dict[str, Tensor]
    seconds: dict[str, float]
    vision: VisionOptions = field(default_factory=VisionOptions)
    asked: tuple[str, ...] = ()
    prefixes: Prefixes | None = None

    @property
    def bytes(self) -> int:
        """Bytes of the features that are held; 0 where the model encodes in each answer."""
        held = [] if self.encoded is None else self.encoded.features
        return sum(each.tokens.nbytes for each in held)

    @classmethod
    def of(
        cls,
        frontend: Frontend,
        opened: Sequence[PromptSource],
        single: bool,
        encoded: EncodedVideos | None,
        progress: Progress | None,
        began: float,
        reading: Reading,
        asked: Sequence[str] = (),
    ) -> Prepared:
        """Encode the media of opened samples, each once; inside `Frontend.memory`.

        Args:
            frontend: of the model.
            opened: prompts whose videos may only be opened yet.
            single: see the class.
            encoded: will hold the features.
            progress: called with the frames encoded so far and those of all videos.
            began: `time.perf_counter` when the call began.
            reading: of the config: what it asks of the vision encoder.
            asked: the words of each question.
        """
        opening = time.perf_counter() - began
        media = [each for sample in opened for each in sample.media]
        encoding = Encoding(encoded, media, progress, reading)
        encoding.encode_images(media)
        samples = tuple(map(encoding.of_prompt, opened))
        making = time.perf_counter()
        with torch.inference_mode(False):  # whoever is answered outside of it gets tensors to change
            inputs = frontend.batch(samples)
        read = opening + encoding.waited + time.perf_counter() - making
        seconds = {"read": read, "vision": encoding.encoded, "total": time.perf_counter() - began}
        return cls(samples, single, encoded, inputs, seconds, vision_options(reading), tuple(asked))

    def inputs_for(self, frontend: Frontend, device: torch.device, reading: Reading) -> dict[str, Tensor]:
        """Return the inputs on a device, for a config whose methods need images as ``frontend`` reads them.

        Raises:
            ConfigError: they need squares, and an image is none and was not padded; or the config asks the vision
                encoder for other copies than were made.
        """
        asked = vision_options(reading)
        if self.vision.reuses and asked.copies != self.vision.copies:
            raise ConfigError(
                f"these videos were encoded with reuse_threshold, early_tau and early_block {self.vision.copies}, and "
                f"this config asks for {asked.copies}: call prepare with the config that answers"
            )
        shown = [each for sample in self.samples for each in sample.media if isinstance(each, Picture)]
        bare = any("square" not in each.facts and len(set(each.pixels.shape[:2])) > 1 for each in shown)
        if bare and getattr(frontend, "pad_to_square", False):
            raise ConfigError(
                "these images were prepared for a config that leaves their shape to the processor, and this config's "
                "predictor was trained on images padded to squares: call prepare with the config that answers"
            )
        return {name: value.to(device) for name, value in self.inputs.items()}


def limited(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return arguments of transformers' ``generate``, with 512 new tokens at most where they set no limit.

    Raises:
        ConfigError: one that is made here of what is asked.
    """
    made = [name for name in _MADE if name in arguments]
    if made:
        raise ConfigError(
            f"generate makes {', '.join(made)} itself, from the question and its media: leave them out, or call the "
            "stock model inside pruned(...)"
        )
    given = {name: value for name, value in arguments.items() if name != "max_new_tokens" or value is not None}
    if any(given.get(name) is not None for name in ("max_new_tokens", "max_length", "generation_config")):
        return given
    return {**given, "max_new_tokens": 512}


def returns_tensors(model: Any, arguments: dict[str, Any]) -> bool:
    """Tell whether ``generate`` hands tensors out, under ``arguments`` or what the model's own settings say."""
    asked = arguments.get("return_dict_in_generate")
    if asked is None:
        asked = (arguments.get("generation_config") or model.generation_config).return_dict_in_generate
    return bool(asked) or cache_of(arguments) is not None
