"""Tokens as text: what each adds to a text, and unprintable characters as escapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_BROKEN = "\ufffd"  # what decoders return for bytes that are not a whole character


def token_pieces(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """Return what each token adds to the text; joined, the pieces are the text.

    Of several tokens that form one character, the last one adds it and the others add nothing.
    """
    found: list[str] = []
    begin = read = 0
    for end in range(1, len(ids) + 1):
        # Decoded with the token before, because decoders drop the leading space of a text.
        before = _decoded(tokenizer, ids[begin:read])
        now = _decoded(tokenizer, ids[begin:end])
        if now.endswith(_BROKEN) and end < len(ids):
            found.append("")
            continue
        found.append(now[len(before) :])
        begin, read = read, end
    return found


def token_text(tokenizer: Any, token: int) -> str:
    """Return the text of a token inside a text, with its leading space.

    The token's name where it is not a whole character, and its number, as ``<50000>``, where it has
    no name: models may have more embeddings than their tokenizer has tokens.
    """
    anchor = tokenizer("a", add_special_tokens=False)["input_ids"][-1]
    text = token_pieces(tokenizer, [anchor, token])[1]
    if not text or _BROKEN in text:
        name = tokenizer.convert_ids_to_tokens(token)
        return f"<{token}>" if name is None else str(name)
    return text


def printable(text: str, keep: str = "") -> str:
    """Return the text with escapes for unprintable characters, except those in `keep`.

    These include control characters and marks of the direction of writing.
    """
    return "".join(
        letter if letter.isprintable() or letter in keep else ascii(letter)[1:-1] for letter in text
    )


def show_spaces(text: str) -> str:
    """Return the printable text with ``␣`` for each space."""
    return printable(text).replace(" ", "␣")


def _decoded(tokenizer: Any, ids: Sequence[int]) -> str:
    text: str = tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)
    return text
