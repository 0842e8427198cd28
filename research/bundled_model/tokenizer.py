"""The bundled model's tokenizer: whole words, Qwen2.5-VL's special tokens and the layout of its chat.

Words are separated by white space and punctuation; white space itself is no token. What is not in the list of words
becomes ``<|unk|>``.
"""

from __future__ import annotations

from typing import Any

from prunevid_qwen.moving_shapes import COLORS, DIRECTIONS, NUMBERS, SHAPES

SPECIAL_TOKENS: tuple[str, ...] = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<|unk|>",
)
_PUNCTUATION = ("?", ":", "(", ")", ".", ",")
_LETTERS = ("A", "B", "C", "D")
_ENGLISH = """
    system user assistant you are a an the helpful what which how many is there does do move moving moves
    color shape direction object objects that appear appears last first briefly options option best only give question
    answer with letter yes no of in video picture where at end start it and to one single word top bottom middle
"""
WORDS: tuple[str, ...] = tuple(
    dict.fromkeys([*_PUNCTUATION, *_LETTERS, *_ENGLISH.split(), *NUMBERS, *COLORS, *SHAPES, *DIRECTIONS, "brief"])
)
VOCABULARY: dict[str, int] = {token: number for number, token in enumerate((*SPECIAL_TOKENS, *WORDS))}
VOCABULARY_SIZE = 128
"""Rows of the embedding: the words known and some to spare."""

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if loop.first and message['role'] != 'system' -%}"
    "{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}"
    "{%- endif -%}"
    "{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{%- if message['content'] is string -%}"
    "{{ message['content'] }}"
    "{%- else -%}"
    "{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'image' or 'image' in part or 'image_url' in part -%}"
    "{{ '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{%- elif part['type'] == 'video' or 'video' in part -%}"
    "{{ '<|vision_start|><|video_pad|><|vision_end|>' }}"
    "{%- elif 'text' in part -%}"
    "{{ part['text'] }}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- endif -%}"
    "{{ '<|im_end|>\\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}"
    "{{ '<|im_start|>assistant\\n' }}"
    "{%- endif -%}"
)
"""The text Qwen2.5-VL is given for the same messages, up to one trailing newline of its own template."""


def build_tokenizer() -> Any:
    """Build the tokenizer (``transformers.PreTrainedTokenizerFast``), padding on the left."""
    return word_tokenizer(VOCABULARY, CHAT_TEMPLATE)


def word_tokenizer(vocabulary: dict[str, int], chat_template: str) -> Any:
    """Build a tokenizer of whole words; a digit is a token wherever the vocabulary has digits.

    Raises:
        ValueError: the vocabulary has more tokens than the embedding has rows.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    if len(vocabulary) > VOCABULARY_SIZE:
        raise ValueError(f"{len(vocabulary)} tokens do not fit {VOCABULARY_SIZE} rows")
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<|unk|>"))
    # a word is the same at the start of a sentence; single capitals stay, they name options
    capitalised = [word for word in vocabulary if word.isalpha() and len(word) > 1]
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Replace(Regex(rf"\b{word.capitalize()}\b"), word) for word in capitalised]
    )
    parts = [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation("isolated")]
    if "0" in vocabulary:
        parts.append(pre_tokenizers.Digits(individual_digits=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(parts)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    named = ("<|endoftext|>", "<|im_end|>", "<|unk|>")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        unk_token="<|unk|>",
        additional_special_tokens=[token for token in SPECIAL_TOKENS if token not in named],
        chat_template=chat_template,
        model_max_length=4096,
        padding_side="left",
    )


def encode_words(text: str) -> list[int]:
    """Token ids of a text with spaces around every token, without the tokenizer's machinery: quick, for training."""
    return [VOCABULARY[word] for word in text.split()]
