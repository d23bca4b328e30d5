"""The tokens right after the instruction: a chat template's, which no instruction changes.

Arditi et al. 2024 (arXiv 2406.11717) read refusal there, at the "post-instruction tokens": the
model has seen the whole instruction and nothing of an answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from faststeer.data.chat import ChatFormat
from faststeer.data.encoding import token_ids

# Instructions of different ends, each of which a tokenizer may merge with what follows it.
_PROBES = ("Name a colour", "Why?", "Add 1 and 2.", "List them: 3", "Write f(x)", "Say 'no'!")


def post_instruction(
    tokenizer: Any, *, system: str | None = None, template: Mapping[str, Any] | None = None
) -> range:
    """Return the positions of the post-instruction tokens in a prompt, such as ``range(-5, 0)``.

    For Llama 3 these are ``<|eot_id|><|start_header_id|>assistant<|end_header_id|>\\n\\n``. The
    range is a value for `positions` of `Patched.steer`, and for `read_token` of
    `faststeer.extract` its numbers are single tokens: ``post_instruction(tokenizer)[0]`` is the
    first one after the instruction.

    Args:
        tokenizer: has a chat template.
        system: as for `faststeer.data.chat_text`.
        template: as for `faststeer.data.chat_text`; a thinking switch often adds tokens here.

    Raises:
        TypeError, ValueError: as `post_instruction_ids`.
    """
    ids = post_instruction_ids(ChatFormat(tokenizer, system, {} if template is None else template))
    return range(-len(ids), 0)


def post_instruction_ids(chat: ChatFormat) -> list[int]:
    """Return the ids at which prompts of a chat format end, whatever the instruction is.

    Raises:
        ValueError: there are none, or the template leaves the instruction out.
    """
    rows = [token_ids(chat.tokenizer, chat.text(text), False)[0] for text in _PROBES]
    if len(set(map(tuple, rows))) < len(rows):
        raise ValueError("the chat template gives equal texts for different instructions")
    count = 0
    while count < min(map(len, rows)) and len({row[-1 - count] for row in rows}) == 1:
        count += 1
    if not count:
        raise ValueError(
            "the chat template ends in the instruction: no token after it is the same for every "
            "instruction"
        )
    return rows[0][-count:]
