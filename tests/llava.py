"""A LLaVA of random weights in a folder, with a tokenizer and a processor of the library: loaded like a download."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import LlavaProcessor, PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from prunevid_qwen.adapters.tiny import EOS, IMAGE, PAD, PATCH, SIDE, VIDEO, VOCAB, tiny_model

BOS, UNKNOWN = 2, 3
TOKENS = SIDE**2  # of an image
WORDS = ["USER", "ASSISTANT", ":", " ", "\n", "?", "what", "color", "is", "the", "circle", "and", "now", "red", "blue"]

# As the processors under llava-hf/ on the hub have it: nothing but a space ends an answer, and strings are passed over.
HUB_TEMPLATE = (
    "{% for m in messages %}{% if m['role'] != 'system' %}{{ m['role'].upper() + ': ' }}{% endif %}"
    "{% for c in m['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\\n' }}{% endfor %}"
    "{% for c in m['content'] | selectattr('type', 'equalto', 'text') %}{{ c['text'] + ' ' }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Make a tokenizer of whole words with the ids of `tiny_model`; it puts <s> in front, as Llama's does."""
    vocabulary = {"<pad>": PAD, "</s>": EOS, "<s>": BOS, "<unk>": UNKNOWN, "<image>": IMAGE, "<video>": VIDEO}
    vocabulary |= {word: 10 + at for at, word in enumerate(WORDS)}
    vocabulary |= {f"w{number}": number for number in range(VOCAB) if number not in vocabulary.values()}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r"\s|\w+|[^\w\s]"), "isolated")
    made.decoder = decoders.Fuse()
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="<pad>",
        eos_token="</s>",
        bos_token="<s>",
        unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>", "video_token": "<video>"},
    )


def tiny_processor(template: str | None = None) -> Any:
    """Make the processor: images are resized and cropped to `SIDE` patches a side."""
    side = SIDE * PATCH
    return LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side}),
        tokenizer=tiny_tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    )


def save_llava(folder: Path, template: str | None = None) -> Path:
    """Write weights, tokenizer and processor as `from_pretrained` reads them."""
    with torch.random.fork_rng():  # the library draws what has one dimension: the class embedding
        torch.manual_seed(0)
        tiny_model("llava").save_pretrained(folder)
    tiny_processor(template).save_pretrained(folder)
    return folder
