"""Chat formats of families whose older downloads bring no chat template."""

from __future__ import annotations

# "vicuna_v1", in which LLaVA-1.5 was tuned: an answer ends with the end-of-sequence token, and nothing stands between
# it and the next turn. Pictures stand in front of the text of their turn.
_VICUNA_V1 = """\
{%- for message in messages -%}
{%- if message['role'] == 'user' %}{{ 'USER: ' }}{% endif -%}
{%- if message['role'] == 'assistant' %}{{ 'ASSISTANT: ' }}{% endif -%}
{%- for item in message['content'] if item['type'] == 'image' %}{{ '<image>\\n' }}{% endfor -%}
{%- for item in message['content'] if item['type'] == 'text' %}{{ item['text'] }}{% endfor -%}
{%- if message['role'] == 'assistant' %}{{ eos_token }}{% else %}{{ ' ' }}{% endif -%}
{%- endfor -%}
{%- if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif -%}
"""

DEFAULT_TEMPLATES = {"llava": _VICUNA_V1}
"""Of a ``model_type``, what is written where neither processor nor tokenizer brings a template."""
