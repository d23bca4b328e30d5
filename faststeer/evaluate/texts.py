"""Texts as batches of token ids, of like length, padded on the tokenizer's side."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from faststeer.data.batches import Batch
from faststeer.models.special_tokens import missing_bos, token_ids
from faststeer.models.text_calls import TextCalls
from faststeer.utils.warnings import FaststeerWarning


def in_batches(
    rows: Sequence[Sequence[int]], tokenizer: Any, batch_size: int, calls: TextCalls
) -> Iterator[tuple[list[int], Batch]]:
    """Yield numbers of rows, and these as one batch; shortest first, so that batches pad little.

    Of a model whose results padding changes, batches hold rows of one length.

    Raises:
        ValueError: `batch_size` below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; expected at least 1")
    order = sorted(range(len(rows)), key=lambda number: len(rows[number]))
    side = getattr(tokenizer, "padding_side", "left")
    pad = tokenizer.pad_token_id
    for start in range(0, len(order), batch_size):
        numbers = order[start : start + batch_size]
        chosen = [rows[number] for number in numbers]
        for group in calls.groups(chosen, pad):
            own = [chosen[at] for at in group]
            yield [numbers[at] for at in group], calls.batch(own, pad, side)


def warn_of_missing_bos(
    model: nn.Module, tokenizer: Any, rows: Sequence[Sequence[int]], stacklevel: int = 4
) -> None:
    """Warn once per model of rows that lack a BOS which it needs."""
    if (message := missing_bos(model, tokenizer, rows)) is not None:
        warnings.warn(message, FaststeerWarning, stacklevel=stacklevel)


def encode(
    tokenizer: Any, texts: Sequence[str], max_length: int | None, context: int | None
) -> list[list[int]]:
    """Return the ids of each text, cut after `max_length` tokens.

    Raises:
        ValueError: a text with fewer than two tokens, in which none is predicted, or with more
            than the model's context.
    """
    rows = []
    for number, text in enumerate(texts):
        ids, _ = token_ids(tokenizer, text, max_length=max_length)
        if len(ids) < 2:
            raise ValueError(f"text {number} has {len(ids)} tokens, of which none is predicted")
        if context is not None and len(ids) > context:
            raise ValueError(
                f"text {number} has {len(ids)} tokens, and the model's context is {context}; "
                f"max_length={context} cuts what is longer"
            )
        rows.append(ids)
    return rows
