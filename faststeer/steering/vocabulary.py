"""What each token of a tokenizer writes, so that a text is found whichever tokens hold it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

_BROKEN = "\ufffd"  # what a part of a character decodes to
_SAMPLE = 64  # tokens that are decoded together, to compare with their own texts
_known: WeakKeyDictionary[Any, tuple[int | None, list[str]]] = WeakKeyDictionary()


def vocabulary_texts(tokenizer: Any) -> list[str]:
    """Return the text that each token id adds behind other tokens, special tokens included.

    Read once per tokenizer, and again where its size has changed. Part of a character is a
    replacement character.

    Raises:
        TypeError: a tokenizer that cannot decode, or whose size is unknown.
        ValueError: one whose tokens' texts depend on the tokens beside them.
    """
    try:
        known = _known.get(tokenizer)
    except TypeError:  # it cannot be referred to weakly
        return _read(tokenizer)
    size = vocabulary_size(tokenizer)
    if known is None or known[0] != size:
        known = _known[tokenizer] = size, _read(tokenizer)
    return known[1]


def vocabulary_size(tokenizer: Any) -> int | None:
    """Return the number of tokens, added ones among them; None for a tokenizer without a length."""
    return len(tokenizer) if hasattr(type(tokenizer), "__len__") else None


def decoder_of(tokenizer: Any) -> Callable[[Sequence[int]], str]:
    """Return a function from ids to their text: special tokens kept, no spaces tidied.

    Raises:
        TypeError: a tokenizer that cannot decode.
    """
    if not callable(getattr(tokenizer, "decode", None)):
        raise TypeError(
            f"a marker's text got a {type(tokenizer).__name__} as the tokenizer; expected one with "
            "decode(ids)"
        )
    options: dict[str, Any] = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
    method = getattr(tokenizer, "_decode", tokenizer.decode)
    if "spaces_between_special_tokens" in inspect.signature(method).parameters:
        options["spaces_between_special_tokens"] = False

    def decode(ids: Sequence[int]) -> str:
        text: str = tokenizer.decode(list(ids), **options)
        return text

    return decode


def require_writable(text: str, tokenizer: Any) -> None:
    """Raise ValueError for a text that no tokens write, or whose characters tokens share.

    Raises TypeError as `vocabulary_texts`.
    """
    texts = vocabulary_texts(tokenizer)
    written = {character for own in texts for character in own}
    for character in text:
        if character in written and character != _BROKEN:
            continue
        reason = (
            "no token writes it"
            if character.isascii()
            else "no token writes it alone: it is made of parts of tokens, or never occurs"
        )
        raise ValueError(
            f"the marker {text!r} holds {character!r}, and with this tokenizer {reason}; give the "
            "marker's token ids, or another marker"
        )


def _read(tokenizer: Any) -> list[str]:
    decode, size = decoder_of(tokenizer), _size(tokenizer)
    # A first token may lose its space, so that each is decoded behind another one.
    anchor = next((token for token in range(size) if _separable(decode, token)), None)
    if anchor is None:
        raise ValueError(
            f"no token of the {type(tokenizer).__name__} has a text of its own; give the marker's "
            "token ids"
        )
    base = decode([anchor])
    texts = [decode([anchor, token]) for token in range(size)]
    whole = [token for token, text in enumerate(texts) if _BROKEN not in text]
    sample = whole[:: max(1, len(whole) // _SAMPLE)]
    expected = base + "".join(texts[token][len(base) :] for token in sample)
    if not all(text.startswith(base) for text in texts) or decode([anchor, *sample]) != expected:
        raise ValueError(
            f"what a token of the {type(tokenizer).__name__} writes depends on the tokens beside "
            "it, so that a marker's text cannot be followed; give the marker's token ids"
        )
    return [text[len(base) :] for text in texts]


def _separable(decode: Callable[[Sequence[int]], str], token: int) -> bool:
    text = decode([token])
    return bool(text) and _BROKEN not in text and decode([token, token]).startswith(text)


def _size(tokenizer: Any) -> int:
    """Return how many ids the tokenizer has; some may be without a token."""
    vocabulary = getattr(tokenizer, "get_vocab", None)
    found = vocabulary() if callable(vocabulary) else None
    if isinstance(found, Mapping) and found:
        return 1 + max(int(token) for token in found.values())
    if not hasattr(type(tokenizer), "__len__"):
        raise TypeError(
            f"a marker's text got a {type(tokenizer).__name__} as the tokenizer, which has neither "
            "get_vocab() nor a length; give the marker's token ids"
        )
    return len(tokenizer)
