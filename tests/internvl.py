"""An InternVL of random weights in a folder, with a tokenizer built here: loaded like a download."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from prunevid_qwen.adapters.tiny import END, EOS, IMAGE, MERGE, PAD, PATCH, SIDE, START, VIDEO, tiny_model
from tests.qwen3 import tiny_tokenizer

SPECIAL = {
    "<|endoftext|>": PAD, "<|im_end|>": EOS, "<img>": START, "</img>": END, "<IMG_CONTEXT>": IMAGE, "<video>": VIDEO,
    "<|im_start|>": 6, "<|unk|>": 7,
}  # fmt: skip
_ENGLISH = "Frame system user assistant what color is the circle and now red blue"
WORDS = [*"0123456789<>.?: \n", *_ENGLISH.split()]
TILE = MERGE * SIDE * PATCH  # pixels of a side

# Of the published template what it writes without a system message.
TEMPLATE = (
    "{%- for message in messages -%}"
    "{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'image' -%}{{ '<IMG_CONTEXT>\\n' }}"
    "{%- elif part['type'] == 'video' -%}{{ '<video>\\n' }}"
    "{%- elif 'text' in part -%}{{ part['text'] }}{%- endif -%}"
    "{%- endfor -%}"
    "{{ '<|im_end|>\\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"
)


def save_internvl(folder: Path) -> Path:
    """Write weights, tokenizer and settings as `from_pretrained` reads them; tiles are small."""
    with torch.random.fork_rng():  # the library draws what has one dimension
        torch.manual_seed(0)
        tiny_model("internvl").save_pretrained(folder)
    marks = {"start_image": "<img>", "end_image": "</img>", "context_image": "<IMG_CONTEXT>", "video": "<video>"}
    named = {f"{name}_token": mark for name, mark in marks.items()}
    tiny_tokenizer(SPECIAL, WORDS, TEMPLATE, extra_special_tokens=named).save_pretrained(folder)
    size = {"height": TILE, "width": TILE}
    image = {
        "image_processor_type": "GotOcr2ImageProcessor", "size": size, "crop_to_patches": True, "min_patches": 1,
        "max_patches": 4,
    }  # fmt: skip
    (folder / "processor_config.json").write_text(
        json.dumps(
            {
                "processor_class": "InternVLProcessor", "image_seq_length": SIDE**2, "image_processor": image,
                "video_processor": {"size": size},
            }
        )
    )  # fmt: skip
    return folder
