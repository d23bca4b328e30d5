"""Find the hidden states and their token axes in whatever a decoder layer returns.

Mostly they are ``[B, T, H]``, but XLNet has tokens first: the axes are found by their lengths.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor


def hidden_states(output: Any) -> Tensor:
    """Return the hidden states in a layer's output: the output itself, or its first element.

    Raises:
        TypeError: there are none.
    """
    hidden = output[0] if isinstance(output, (tuple, list)) and output else output
    if not isinstance(hidden, Tensor):
        raise TypeError(f"a layer returned a {type(hidden).__name__}; expected hidden states")
    return hidden


def batch_first(hidden: Tensor, rows: int, tokens: int) -> Tensor:
    """Return a view ``[B, T, ..., H]`` of hidden states of `rows` rows and `tokens` tokens.

    Raises:
        ValueError: there are no such axes, or which is which is ambiguous.
    """
    return hidden.movedim(_row_and_token_axes(hidden, rows, tokens), [0, 1])


def original_order(view: Tensor, hidden: Tensor, rows: int, tokens: int) -> Tensor:
    """Return `view`, as `batch_first` returns it, with its axes in the order of `hidden`."""
    return view.movedim([0, 1], _row_and_token_axes(hidden, rows, tokens))


def _row_and_token_axes(hidden: Tensor, rows: int, tokens: int) -> list[int]:
    leading = list(hidden.shape[:-1])
    if leading[:2] == [rows, tokens]:
        return [0, 1]
    if rows == tokens or leading.count(rows) != 1 or leading.count(tokens) != 1:
        raise ValueError(
            f"a layer's output has shape {tuple(hidden.shape)}, in which {rows} rows of {tokens} "
            "tokens cannot be identified"
        )
    return [leading.index(rows), leading.index(tokens)]
