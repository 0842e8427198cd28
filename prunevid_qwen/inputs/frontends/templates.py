"""Chat formats of families whose older downloads bring no chat template."""

from __future__ import annotations

from typing import Any

# "vicuna_v1", in which LLaVA-1.5 was tuned: an answer ends with the end-of-sequence token, and nothing stands between
# it and the next turn. Pictures stand in front of the text of their turn.
_VICUNA_V1 = """\
{%- for message in messages -%}
{%- if message['role'] == 'user' %}{{ 'USER: ' }}{% endif -%}
{%- if message['role'] == 'assistant' %}{{ 'ASSISTANT: ' }}{% endif -%}
{%- for item in message['content'] if item['type'] in ('image', 'video') -%}
{{ '<' + item['type'] + '>\\n' }}{%- endfor -%}
{%- for item in message['content'] if item['type'] == 'text' %}{{ item['text'] }}{% endfor -%}
{%- if message['role'] == 'assistant' %}{{ eos_token }}{% else %}{{ ' ' }}{% endif -%}
{%- endfor -%}
{%- if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif -%}
"""

# Mistral's first, in which the LLaVA-NeXT of that decoder was tuned.
_MISTRAL = """\
{%- for message in messages -%}
{%- if message['role'] == 'assistant' -%}
{{ ' ' }}{%- for item in message['content'] %}{{ item['text'] }}{% endfor -%}{{ eos_token }}
{%- else -%}
{{ '[INST] ' }}
{%- for item in message['content'] if item['type'] in ('image', 'video') -%}
{{ '<' + item['type'] + '>\\n' }}{%- endfor -%}
{%- for item in message['content'] if item['type'] == 'text' %}{{ item['text'] }}{% endfor -%}
{{ ' [/INST]' }}
{%- endif -%}
{%- endfor -%}
"""

# ChatML, which Qwen2 speaks: LLaVA-OneVision's, a space between the role and what is shown.
_CHATML = """\
{%- for message in messages -%}
{{ '<|im_start|>' + message['role'] + ' ' }}
{%- for item in message['content'] if item['type'] in ('image', 'video') -%}
{{ '<' + item['type'] + '>\\n' }}{%- endfor -%}
{%- for item in message['content'] if item['type'] == 'text' %}{{ item['text'] }}{% endfor -%}
{{ '<|im_end|>' }}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif -%}
"""

DEFAULT_TEMPLATES = {
    "llava": _VICUNA_V1,
    "llava_next llama": _VICUNA_V1,
    "llava_next mistral": _MISTRAL,
    "llava_next_video llama": _VICUNA_V1,
    "llava_next_video mistral": _MISTRAL,
    "llava_onevision qwen2": _CHATML,
    "video_llava": _VICUNA_V1,
}
"""Of a ``model_type``, or of one with its decoder's, what is written where neither processor nor tokenizer brings a
template."""


def default_template(config: Any) -> str | None:
    """Return the template of a model by its config; None where none is known."""
    decoder = getattr(getattr(config, "text_config", None), "model_type", "")
    family = str(config.model_type)
    return DEFAULT_TEMPLATES.get(f"{family} {decoder}", DEFAULT_TEMPLATES.get(family))
