"""The tokenizer of the second toy: the words of the first, and the signs and digits of a frame's time."""

from __future__ import annotations

from typing import Any

from research.bundled_model.tokenizer import CHAT_TEMPLATE as FIRST_CHAT_TEMPLATE
from research.bundled_model.tokenizer import VOCABULARY as FIRST_VOCABULARY
from research.bundled_model.tokenizer import word_tokenizer

TIME_WORDS = ("<", ">", "seconds", *"0123456789")
VOCABULARY: dict[str, int] = {
    word: number for number, word in enumerate((*FIRST_VOCABULARY, *TIME_WORDS))
}  # a word of both toys has one number, so that one list of ids is read by both

_SYSTEM = """{%- if loop.first and message['role'] != 'system' -%}
{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
{%- endif -%}""".replace("\n", "")
CHAT_TEMPLATE = FIRST_CHAT_TEMPLATE.replace(_SYSTEM, "")
"""The first toy's, without a system message where none is given: Qwen3-VL has none."""


def build_tokenizer() -> Any:
    """Build the tokenizer (``transformers.PreTrainedTokenizerFast``), padding on the left."""
    return word_tokenizer(VOCABULARY, CHAT_TEMPLATE)
