"""Make scopes of what is written: `faststeer.after`, `between`, `until`, `first` and `at`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import index
from typing import Any, TypeAlias

from torch import Tensor

from faststeer.steering.automata import Symbol, TokenAutomaton, enclosed, one_of, seen_once
from faststeer.steering.markers import After, Written
from faststeer.steering.scopes import InRange, Scope
from faststeer.steering.token_positions import TokenPositions
from faststeer.steering.vocabulary import require_writable, vocabulary_texts
from faststeer.vectors.position_range import first_generated

Marker: TypeAlias = "str | int | Sequence[int]"


def after(marker: Marker, tokenizer: Any = None) -> After:
    """Return the scope of the tokens after a marker.

    They follow on its last occurrence in the prompt, and all generated tokens are among them, as in
    CAA with "[/INST]" (Rimsky et al. 2024, section 3). Where the prompt does not hold the marker,
    they follow on its first occurrence in the answer; a `FaststeerWarning` names the prompts where
    that does not hold it either.

    Args:
        marker: text, special tokens included, found whichever tokens hold it: a token that holds
            the marker's end and more ("</think>" with a line break, or a space at the marker's end
            with the next word) counts as marker, and the scope begins with the token behind it. Or
            token ids, one directly behind the other.
        tokenizer: the one that made the prompts; needed for text.

    Raises:
        TypeError: a tokenizer that cannot decode, or a marker that is neither text nor ids.
        ValueError: an empty marker; text without a tokenizer, or with characters that no token
            writes; a tokenizer whose tokens' texts depend on the tokens beside them.
    """
    pattern, words = _pattern("after", marker, tokenizer)
    automaton = TokenAutomaton(_symbols(pattern, tokenizer), seen_once(pattern))
    return After(f"after {words}", automaton, _tokenizer_of(pattern, tokenizer))


def until(marker: Marker, tokenizer: Any = None) -> Scope:
    """Return the scope of the tokens up to a marker, whose own tokens are in it.

    It is ``~after(marker, tokenizer)``: up to the last occurrence in the prompt, or else the first
    in the answer. Arguments and errors are those of `after`.
    """
    return ~after(marker, tokenizer)


def between(opening: Marker, closing: Marker, tokenizer: Any = None) -> Written:
    """Return the scope of the tokens between two markers, in the prompt and in the answer.

    It begins behind the opening marker and ends with the last token of the closing one, which
    nothing shows before it is complete; what was not closed stays in it to the end. It begins again
    with each opening marker behind that. Thinking and answer are ``between("<think>", "</think>",
    tokenizer)`` and ``after("</think>", tokenizer)``, which have no token in common.

    Args:
        opening: a marker, as for `after`.
        closing: a marker, text if the other one is; it may be the same one.
        tokenizer: as for `after`.

    Raises:
        TypeError, ValueError: as `after`; a text and ids.
    """
    first, words = _pattern("between", opening, tokenizer)
    second, closing_words = _pattern("between", closing, tokenizer)
    if isinstance(first, str) != isinstance(second, str):
        raise ValueError("between() got a text and token ids; give both markers as text or as ids")
    symbols = _symbols([*first, *second], tokenizer)
    automaton = TokenAutomaton(symbols, enclosed(first, second))
    kept = _tokenizer_of(first, tokenizer)
    return Written(f"between {words} and {closing_words}", automaton, kept)


def first(count: int) -> InRange:
    """Return the scope of the first `count` generated tokens.

    Raises:
        TypeError: not a whole number.
        ValueError: a number below 1.
    """
    if isinstance(count, bool) or not isinstance(count, int):
        raise TypeError(f"first() got a {type(count).__name__}; expected a number of tokens")
    if count < 1:
        raise ValueError(f"first() got {count}; expected at least 1 token")
    return InRange(first_generated(count))


def at(ids: int | Sequence[int]) -> Scope:
    """Return the scope of the tokens with these ids, in the prompt and in the answer.

    Raises:
        TypeError: other values than whole numbers, such as text.
        ValueError: no ids, or one below 0.
    """
    return AtIds(tuple(dict.fromkeys(_ids("at", ids))))


class AtIds(Scope):
    """Tokens of certain ids."""

    def __init__(self, ids: tuple[int, ...]) -> None:
        """Create the scope of these ids."""
        self.ids = ids
        self.automaton: TokenAutomaton = TokenAutomaton(
            {token: (token,) for token in ids}, one_of()
        )

    def __str__(self) -> str:
        """Return the scope in words."""
        return f"at the ids {list(self.ids)}"

    def __eq__(self, other: object) -> bool:
        """Return whether the ids are the same."""
        return isinstance(other, AtIds) and set(other.ids) == set(self.ids)

    def __hash__(self) -> int:
        """Return the hash of the ids."""
        return hash(frozenset(self.ids))

    def mask(self, tokens: TokenPositions) -> Tensor:
        """Return which tokens are in it, ``[B, T]`` bool. Raises ValueError for embeddings."""
        if tokens.ids is None:
            raise ValueError(
                f"positions={self} has to see the ids of the tokens, and this forward has "
                "embeddings: call generate with input_ids, or a text model with the ids"
            )
        return self.automaton.completes_alone(tokens.ids) & (tokens.positions >= 0)


def _pattern(function: str, marker: Marker, tokenizer: Any) -> tuple[str | list[int], str]:
    """Return the marker, checked, and what messages call it. Raises as `after`."""
    if not isinstance(marker, str):
        ids = _ids(function, marker)
        return ids, f"the ids {ids}"
    if not marker:
        raise ValueError(f"{function}() got an empty text as the marker")
    if tokenizer is None:
        raise ValueError(
            f"{function}({marker!r}) needs the tokenizer: {function}({marker!r}, tokenizer)"
        )
    require_writable(marker, tokenizer)
    return marker, f"the text {marker!r}"


def _ids(function: str, given: object) -> list[int]:
    listed = given.tolist() if isinstance(given, Tensor) else given
    if isinstance(listed, str) or not isinstance(listed, (int, Sequence)):
        raise TypeError(f"{function}() got a {type(given).__name__}; expected token ids")
    ids = [listed] if isinstance(listed, int) else list(listed)
    if not ids:
        raise ValueError(f"{function}() got a marker without tokens")
    for token in ids:
        if isinstance(token, bool) or not hasattr(token, "__index__"):
            raise TypeError(f"{function}() got a {type(token).__name__} as a token id")
        if token < 0:
            raise ValueError(f"{function}() got the token id {token}; ids begin with 0")
    return [index(token) for token in ids]


def _symbols(pattern: str | Sequence[Symbol], tokenizer: Any) -> Mapping[int, Sequence[Symbol]]:
    """Return what each token writes, of what markers hold; None stands for anything else."""
    if not isinstance(pattern[0], str):
        return {token: (token,) for token in pattern if isinstance(token, int)}
    known = set(pattern)
    return {
        token: [character if character in known else None for character in text]
        for token, text in enumerate(vocabulary_texts(tokenizer))
        if not text or not known.isdisjoint(text)
    }


def _tokenizer_of(pattern: str | Sequence[Symbol], tokenizer: Any) -> Any:
    return tokenizer if isinstance(pattern[0], str) else None
