"""Steering and reading with plain hooks on a stock model; nothing here uses faststeer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from every_model.calls import Amount, Call, Prompts, Unreadable

Edit = Callable[[Call, Tensor], Tensor]
Edits = Sequence["tuple[nn.Module | Input, Edit]"]


@dataclass(frozen=True)
class Input:
    """Marks an edit of the input of `module` rather than of its output."""

    module: nn.Module


def first_tensor(output: Any) -> Tensor:
    """Return the hidden states in the output of a block. Raises Unreadable."""
    found = output[0] if isinstance(output, (tuple, list)) else output
    if not isinstance(found, Tensor):
        raise Unreadable(f"a block returned a {type(output).__name__}")
    return found


def _with_first(output: Any, changed: Tensor) -> Any:
    if isinstance(output, Tensor):
        return changed
    if hasattr(output, "_replace"):
        return output._replace(**{output._fields[0]: changed})
    return type(output)([changed, *output[1:]])


@contextmanager
def hooked(model: nn.Module, prompts: Prompts, edits: Edits) -> Iterator[None]:
    """Apply each edit to its module's output in every call of `model`."""
    calls: list[Call] = []
    layout: dict[int, tuple[int, int]] = {}
    if not edits:
        yield
        return

    def count(module: nn.Module, args: Any, kwargs: Any) -> None:
        ids = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
        width = prompts.ids.shape[1]
        ahead = calls[0].given - width if calls else ids.shape[1] - width  # XLNet's query
        calls.append(Call(prompts, width + len(calls) + ahead, ids.shape[1], layout))

    def hook(edit: Edit) -> Callable[..., Any]:
        def after(module: nn.Module, args: Any, output: Any) -> Any:
            before = first_tensor(output)
            changed = edit(calls[-1], before)
            return None if changed is before else _with_first(output, changed)

        return after

    def pre_hook(edit: Edit) -> Callable[..., Any]:
        def before(module: nn.Module, args: Any, kwargs: Any) -> Any:
            if args:
                return (edit(calls[-1], args[0]), *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": edit(calls[-1], kwargs["hidden_states"])}

        return before

    with ExitStack() as stack:
        stack.callback(model.register_forward_pre_hook(count, with_kwargs=True).remove)
        for module, edit in edits:
            if isinstance(module, Input):
                own = module.module.register_forward_pre_hook(pre_hook(edit), with_kwargs=True)
            else:
                own = module.register_forward_hook(hook(edit))
            stack.callback(own.remove)
        yield


def adding(direction: Tensor, amount: Amount) -> Edit:
    """Return an edit that adds ``amount * direction`` at each token."""

    def edit(call: Call, hidden: Tensor) -> Tensor:
        _require_width(hidden, direction)
        batch_axis, token_axis = call.axes(hidden)
        shape = [1] * hidden.dim()
        shape[batch_axis], shape[token_axis] = hidden.shape[batch_axis], hidden.shape[token_axis]
        amounts = call.amounts(amount)
        if batch_axis > token_axis:
            amounts = amounts.T
        return hidden + amounts.reshape(shape) * direction

    return edit


def along(hidden: Tensor, direction: Tensor, dtype: torch.dtype, cosine: bool = False) -> Tensor:
    """Return the projections of all tokens on a direction of norm 1, or their cosines with it."""
    _require_width(hidden, direction)
    wide = hidden.detach().to(dtype)
    found = wide @ direction.to(dtype)
    return found / wide.norm(dim=-1) if cosine else found


def _require_width(hidden: Tensor, direction: Tensor) -> None:
    if hidden.shape[-1] != len(direction):
        raise Unreadable(
            f"a block returned {tuple(hidden.shape)}, which has no place for a vector of "
            f"{len(direction)}"
        )


def adding_by_sequence(direction: Tensor, factors: Sequence[float]) -> Edit:
    """Return an edit that adds ``factor * direction`` everywhere in each sequence."""

    def edit(call: Call, hidden: Tensor) -> Tensor:
        _require_width(hidden, direction)
        shape = [1] * hidden.dim()
        shape[call.batch_axis(hidden)] = len(factors)
        return hidden + torch.tensor(factors).reshape(shape) * direction

    return edit


def keeping(kept: list[Tensor], amount: Amount) -> Edit:
    """Return an edit that changes nothing and appends rows ``[N, ..., H]``: amount is not 0."""

    def edit(call: Call, hidden: Tensor) -> Tensor:
        rows = hidden.detach().movedim(call.axes(hidden), (0, 1))
        kept.append(rows[call.amounts(amount) != 0])
        return hidden

    return edit


def without(direction: Tensor, dtype: torch.dtype = torch.float64) -> Edit:
    """Return an edit that removes the projection on `direction`, of norm 1, everywhere.

    `dtype`: in which the projection is computed; the result has the dtype of the stream.
    """
    exact = direction.to(dtype)

    def edit(call: Call, hidden: Tensor) -> Tensor:
        removed = along(hidden, direction, dtype)[..., None] * exact
        return (hidden.to(dtype) - removed).to(hidden.dtype)

    return edit
