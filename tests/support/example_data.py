"""Example questions, a chat template, and files of rows."""

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
