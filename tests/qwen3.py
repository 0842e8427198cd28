"""A Qwen3-VL of random weights in a folder, with a tokenizer built here: loaded like a download."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from prunevid_qwen.adapters.tiny import END, EOS, IMAGE, PAD, PATCH, START, VIDEO, VOCAB, tiny_model

SPECIAL = {
    "<|endoftext|>": PAD, "<|im_end|>": EOS, "<|vision_start|>": START, "<|vision_end|>": END, "<|image_pad|>": IMAGE,
    "<|video_pad|>": VIDEO, "<|im_start|>": 6, "<|unk|>": 7,
}  # fmt: skip
_ENGLISH = "seconds system user assistant what color is the circle and now red blue"
WORDS = [*"0123456789<>.?: \n", *_ENGLISH.split()]

# Of Qwen3-VL's own template what it writes without tools: no system message unless there is one.
TEMPLATE = (
    "{%- for message in messages -%}"
    "{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{%- if message['content'] is string -%}{{ message['content'] }}{%- else -%}"
    "{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'image' -%}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{%- elif part['type'] == 'video' -%}{{ '<|vision_start|><|video_pad|><|vision_end|>' }}"
    "{%- elif 'text' in part -%}{{ part['text'] }}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}"
    "{{ '<|im_end|>\\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"
)


def tiny_tokenizer(
    special: dict[str, int] = SPECIAL, words: Sequence[str] = WORDS, template: str = TEMPLATE, **more: Any
) -> PreTrainedTokenizerFast:
    """Make a tokenizer of words and single digits, with the ids of `tiny_model`; ``more`` goes to its class."""
    vocabulary = special | {word: 10 + at for at, word in enumerate(words)}
    vocabulary |= {f"w{number}": number for number in range(VOCAB) if number not in vocabulary.values()}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<|unk|>"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r"\s|\d|w\d+|[^\W\d]+|[^\w\s]"), "isolated")
    made.decoder = decoders.Fuse()
    named = ("<|endoftext|>", "<|im_end|>", "<|unk|>")
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        unk_token="<|unk|>",
        additional_special_tokens=[token for token in special if token not in named],
        chat_template=template,
        padding_side="left",
        **more,
    )


def settings(kind: str, patch: int = 16, **more: Any) -> dict[str, Any]:
    """The settings beside a published checkpoint, for "video" or "image"; ``more`` go before them."""
    sizes = {"video": (4096, 25165824), "image": (65536, 16777216)}[kind]
    types = {"video": "video_processor_type", "image": "image_processor_type"}
    names = {"video": "Qwen3VLVideoProcessor", "image": "Qwen2VLImageProcessorFast"}
    return {
        "size": {"shortest_edge": sizes[0], "longest_edge": sizes[1]}, "patch_size": patch, "temporal_patch_size": 2,
        "merge_size": 2, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, types[kind]: names[kind], **more,
    }  # fmt: skip


def save_qwen3(folder: Path, family: str = "qwen3_vl") -> Path:
    """Write weights, tokenizer and settings as `from_pretrained` reads them; frames are small."""
    with torch.random.fork_rng():  # the library draws what has one dimension
        torch.manual_seed(0)
        tiny_model(family).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    token = (2 * PATCH) ** 2
    for kind, name in (("video", "video_preprocessor_config.json"), ("image", "preprocessor_config.json")):
        size = {"shortest_edge": token, "longest_edge": 16 * token * (16 if kind == "video" else 1)}
        (folder / name).write_text(json.dumps(settings(kind, PATCH, size=size)))
    return folder
