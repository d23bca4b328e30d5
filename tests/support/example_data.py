"""Example questions, chat templates, and files of rows."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

QUESTIONS = [
    {
        "question": f"{n}?\nI choose (",
        "answer_matching_behavior": "B",
        "answer_not_matching_behavior": "A",
    }
    for n in range(3)
]


def write_lines(file: Path, rows: Iterable[Any]) -> Path:
    with file.open("w", encoding="utf-8") as opened:
        opened.writelines(json.dumps(row) + "\n" for row in rows)
    return file


TEMPLATE = (
    "{% for m in messages %}"
    "{% if m['role'] == 'system' %}{{ raise_exception('no system prompts') }}{% endif %}"
    "<{{ m['role'] }}>{{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)

# Like Qwen 3's: thinking that is switched off adds an empty thought to the generation prompt.
THINKING = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] | trim }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>"
    "{% if enable_thinking is defined and enable_thinking is false %}<think></think>{% endif %}"
    "{% endif %}"
)
# Like Llama 3's, with the tokens that a tokenizer needs to have five of them after an instruction.
LLAMA_3 = (
    "{% if not date_string is defined %}{% set date_string = '26 Jul' %}{% endif %}{{ bos_token }}"
    "{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
LLAMA_3_SUFFIX = ["<|eot_id|>", "<|start_header_id|>", "assistant", "<|end_header_id|>", "\n\n"]
