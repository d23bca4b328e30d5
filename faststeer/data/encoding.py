"""Texts as token ids, with one beginning-of-sequence token (BOS) at most."""

from __future__ import annotations

from typing import Any


def token_ids(
    tokenizer: Any, text: str, add_special_tokens: bool = True, max_length: int | None = None
) -> tuple[list[int], bool]:
    """Return a text's ids, with one BOS at most, and whether `max_length` cut them.

    A text from a chat template brings its own BOS; what the tokenizer puts in front is dropped.
    """
    ids: list[int] = list(tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"])
    bos = getattr(tokenizer, "bos_token_id", None)
    own = getattr(tokenizer, "bos_token", None)
    twice = bos is not None and ids[:2] == [bos, bos] and bool(own) and text.startswith(str(own))
    if max_length is not None and len(ids) - twice > max_length:
        # By the tokenizer, which knows what belongs at an end.
        cut = tokenizer(
            text,
            add_special_tokens=add_special_tokens,
            truncation=True,
            max_length=max_length + twice,
        )["input_ids"]
        return list(cut)[twice:], True
    return ids[twice:], False
