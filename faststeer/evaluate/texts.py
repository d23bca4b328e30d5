"""Encoding texts, and batching them by length with padding on the tokenizer's side."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from faststeer.data.batches import Batch
from faststeer.data.encoding import token_ids
from faststeer.models.special_tokens import missing_bos
from faststeer.models.text_calls import TextCalls
from faststeer.utils.warnings import FaststeerWarning


def batches_by_length(
    rows: Sequence[Sequence[int]], tokenizer: Any, batch_size: int, calls: TextCalls
) -> Iterator[tuple[list[int], Batch]]:
    """Yield indices of rows with these rows as one batch, shortest first, to minimise padding.

    Batches have rows of equal length where padding would change the model's results.

    Raises:
        ValueError: `batch_size` below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; expected at least 1")
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    side = getattr(tokenizer, "padding_side", "left")
    pad = tokenizer.pad_token_id
    for start in range(0, len(order), batch_size):
        indices = order[start : start + batch_size]
        chosen = [rows[index] for index in indices]
        for group in calls.groups(chosen, pad):
            batch = calls.batch([chosen[at] for at in group], pad, side)
            yield [indices[at] for at in group], batch


def warn_of_missing_bos(
    model: nn.Module, tokenizer: Any, rows: Sequence[Sequence[int]], stacklevel: int = 4
) -> None:
    """Warn once per model that rows lack the BOS that it needs."""
    if (message := missing_bos(model, tokenizer, rows)) is not None:
        warnings.warn(message, FaststeerWarning, stacklevel=stacklevel)


def encode_texts(
    tokenizer: Any, texts: Sequence[str], max_length: int | None, context: int | None
) -> list[list[int]]:
    """Return the token ids of each text, truncated to `max_length` tokens.

    Raises:
        ValueError: a text with fewer than two tokens, none of which is predicted, or with more
            tokens than `context`, the positions of the model.
    """
    rows = []
    for number, text in enumerate(texts):
        ids, _ = token_ids(tokenizer, text, max_length=max_length)
        if len(ids) < 2:
            raise ValueError(f"text {number} has {len(ids)} tokens, of which none is predicted")
        if context is not None and len(ids) > context:
            raise ValueError(
                f"text {number} has {len(ids)} tokens, and the model's context is {context}; "
                f"max_length={context} truncates longer texts"
            )
        rows.append(ids)
    return rows
