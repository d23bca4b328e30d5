"""Steering recomputed: plain hooks and whole forwards, which use nothing of faststeer.

Rows and tokens are found in a layer's output by their numbers: mostly it is ``[B, T, H]``, but
XLNet has tokens first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from faststeer.data.batches import Batch
from faststeer.models.inference import accepted

Inside = Callable[[int, int, int], bool]  # row, position, tokens of its prompt -> is it steered?


def amounts_of(batch: Batch, ids: Tensor, inside: Inside) -> Tensor:
    """Return 1 where a token is steered, ``[B, T]`` float32."""
    amounts = torch.zeros(ids.shape)
    width = batch.ids.shape[1]
    for row, length in enumerate(batch.mask.sum(1).tolist()):
        gap = width - length
        for column in range(gap, ids.shape[1]):
            amounts[row, column] = inside(row, column - gap, length)
    return amounts


def forward(model: Any, ids: Tensor, mask: Tensor, numbered: bool = False) -> Tensor:
    """Return logits ``[B, T, V]`` float32 of one forward without a cache.

    `numbered`: with position ids from 0, which a padded batch always gets; else the model counts.
    """
    call: dict[str, Any] = {"input_ids": ids, "attention_mask": mask, "use_cache": False}
    if numbered or not bool(mask.all()):
        call["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.inference_mode():
        output = model(**accepted(model, call))
    logits: Tensor = output.logits
    return logits.float()


def generated(model: Any, batch: Batch, count: int) -> tuple[Tensor, Tensor]:
    """Return sequences ``[B, T + count]`` of a greedy cached generate, and its raw logits
    ``[B, count, V]`` float32.
    """
    found = model.generate(
        input_ids=batch.ids,
        attention_mask=batch.mask,
        max_new_tokens=count,
        min_new_tokens=count,
        do_sample=False,
        use_cache=True,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_logits=True,
    )
    return found.sequences, torch.stack(found.logits, 1).float()


@contextmanager
def adding(block: nn.Module, direction: Tensor, amounts: Tensor) -> Iterator[None]:
    """Inside, ``amounts[b, t] * direction`` is added to the block's output, in float32."""

    def add(module: nn.Module, args: Any, output: Any) -> Any:
        hidden = hidden_of(output)
        view = by_token(hidden, *amounts.shape)
        addition = amounts[..., None] * direction
        addition = addition.view(*amounts.shape, *[1] * (view.dim() - 3), -1).to(hidden.device)
        changed = restored((view.float() + addition).to(hidden.dtype), hidden, *amounts.shape)
        if isinstance(output, Tensor):
            return changed
        return type(output)([changed, *output[1:]])

    hook = block.register_forward_hook(add)
    try:
        yield
    finally:
        hook.remove()


def hidden_of(output: Any) -> Tensor:
    """Return the hidden states in what a layer returns: alone, or the first of several.

    Raises:
        TypeError: there are none.
    """
    hidden = output[0] if isinstance(output, (tuple, list)) and output else output
    if not isinstance(hidden, Tensor):
        raise TypeError(f"a layer returned a {type(hidden).__name__}; expected hidden states")
    return hidden


def by_token(hidden: Tensor, rows: int, tokens: int) -> Tensor:
    """Return a view ``[B, T, ..., H]`` of hidden states, whose axes are found by their lengths.

    Raises:
        ValueError: there are no such axes.
    """
    return hidden.movedim(_axes(hidden, rows, tokens), [0, 1])


def restored(view: Tensor, hidden: Tensor, rows: int, tokens: int) -> Tensor:
    """Return `view`, made by `by_token`, with its axes in the order of `hidden`."""
    return view.movedim([0, 1], _axes(hidden, rows, tokens))


def _axes(hidden: Tensor, rows: int, tokens: int) -> list[int]:
    leading = list(hidden.shape[:-1])
    if leading[:2] == [rows, tokens]:
        return [0, 1]
    if rows == tokens or leading.count(rows) != 1 or leading.count(tokens) != 1:
        raise ValueError(
            f"a layer's output has shape {tuple(hidden.shape)}: its {rows} rows of {tokens} tokens "
            "are not found in it"
        )
    return [leading.index(rows), leading.index(tokens)]
