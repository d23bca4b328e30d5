"""Token ids as text that can be read: each token's own part, nothing that acts on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_BROKEN = "\ufffd"  # what decoders give for bytes that are no whole character


def pieces(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """What each token adds to the text; together they are the text.

    A character of several tokens is told by the last of them, and the others add nothing.
    """
    found: list[str] = []
    begin = read = 0
    for end in range(1, len(ids) + 1):
        # With the token before, because decoders drop the space in front of a text's first.
        before = _decoded(tokenizer, ids[begin:read])
        now = _decoded(tokenizer, ids[begin:end])
        if now.endswith(_BROKEN) and end < len(ids):
            found.append("")
            continue
        found.append(now[len(before) :])
        begin, read = read, end
    return found


def token_text(tokenizer: Any, token: int) -> str:
    """One token as it stands after others, with its space; its name where it is no whole text.

    Models have room for more tokens than tokenizers know: such a one is told by its number.
    """
    anchor = tokenizer("a", add_special_tokens=False)["input_ids"][-1]
    text = pieces(tokenizer, [anchor, token])[1]
    if not text or _BROKEN in text:
        name = tokenizer.convert_ids_to_tokens(token)
        return f"<{token}>" if name is None else str(name)
    return text


def visible(text: str, kept: str = "") -> str:
    """With escapes in place of what is not printed (but `kept`): control and direction marks."""
    return "".join(
        letter if letter.isprintable() or letter in kept else ascii(letter)[1:-1] for letter in text
    )


def spaced(text: str) -> str:
    """A token with its spaces to be seen."""
    return visible(text).replace(" ", "␣")


def _decoded(tokenizer: Any, ids: Sequence[int]) -> str:
    text: str = tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)
    return text
