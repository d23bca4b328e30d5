"""Steering and reading with plain hooks on a stock model; nothing here comes from faststeer.

A hook sees a block's tensor without its columns, so a run counts the columns of its calls: the
first call holds the prompts, and each later one ends a token further, whether it holds one token
(with a cache) or all of them (without).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import torch
from torch import Tensor, nn

# (sequence, position or None for padding, length of its prompt) -> factor of the direction there
Amount = Callable[[int, "int | None", int], float]
Edit = Callable[["Call", Tensor], Tensor]
Edits = Sequence["tuple[nn.Module | Input, Edit]"]


class Unreadable(Exception):
    """A block's tensor whose tokens cannot be told."""


@dataclass(frozen=True)
class Prompts:
    """Token ids ``[B, P]``, padded on the left where `mask` ``[B, P]`` is 0.

    `lines`: of ids per sequence, as the codebooks of MusicGen, which all get the same ids here.
    """

    ids: Tensor
    mask: Tensor
    lines: int = 1

    @property
    def given(self) -> Tensor:
        """The ids as the model takes them."""
        return self.ids.repeat_interleave(self.lines, 0)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each prompt."""
        return [int(row.sum()) for row in self.mask]


@dataclass
class Call:
    """One call of the model: `end` columns are known by now, of which it was given `given`.

    `layout`: by rank of a tensor, which axes count sequences and tokens, as an earlier call of the
    run has shown; later ones may hold as many tokens as sequences.
    """

    prompts: Prompts
    end: int
    given: int
    layout: dict[int, tuple[int, int]]

    def axes(self, hidden: Tensor) -> tuple[int, int]:
        """Where a block's tensor counts sequences and tokens. Raises Unreadable."""
        batch = len(self.prompts.ids)
        found = [
            (b, t)
            for b, t in permutations(range(hidden.dim() - 1), 2)
            if hidden.shape[b] == batch and hidden.shape[t] == self.given
        ]
        if len(found) == 1:
            self.layout.setdefault(hidden.dim(), found[0])
        known = self.layout.get(hidden.dim())
        if known not in found:
            raise Unreadable(
                f"a block returned {tuple(hidden.shape)} for {batch} sequences of "
                f"{self.given} tokens"
            )
        return known

    def batch_axis(self, hidden: Tensor) -> int:
        """Where a block's tensor counts sequences; the first of several. Raises Unreadable."""
        with suppress(Unreadable):
            return self.axes(hidden)[0]
        batch = len(self.prompts.ids)
        found = [axis for axis in range(hidden.dim() - 1) if hidden.shape[axis] == batch]
        if not found:
            raise Unreadable(f"a block returned {tuple(hidden.shape)} for {batch} sequences")
        return found[0]

    def amounts(self, amount: Amount) -> Tensor:
        """What `amount` says of every token ``[B, T]`` of this call."""
        lengths, width = self.prompts.lengths, self.prompts.ids.shape[1]
        columns = range(self.end - self.given, self.end)
        rows = []
        for row, length in enumerate(lengths):
            positions = [column - (width - length) for column in columns]
            rows.append([amount(row, p if p >= 0 else None, length) for p in positions])
        return torch.tensor(rows, dtype=torch.float32)


@dataclass(frozen=True)
class Input:
    """Stands for what `module` is given, where an edit's module would be what it returns."""

    module: nn.Module


def first_tensor(output: Any) -> Tensor:
    """The hidden states among what a block returned."""
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
    """Inside, each module's output is what its edit makes of it, in every call of `model`."""
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
    """Adds ``amount * direction`` at every token."""

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


def _require_width(hidden: Tensor, direction: Tensor) -> None:
    if hidden.shape[-1] != len(direction):
        raise Unreadable(
            f"a block returned {tuple(hidden.shape)}, which has no place for a vector of "
            f"{len(direction)}"
        )


def adding_by_sequence(direction: Tensor, factors: Sequence[float]) -> Edit:
    """Adds ``factor * direction`` to all that a block returns of each sequence."""

    def edit(call: Call, hidden: Tensor) -> Tensor:
        _require_width(hidden, direction)
        shape = [1] * hidden.dim()
        shape[call.batch_axis(hidden)] = len(factors)
        return hidden + torch.tensor(factors).reshape(shape) * direction

    return edit


def keeping(kept: list[Tensor], amount: Amount) -> Edit:
    """Changes nothing; appends the rows ``[N, ..., H]`` of tokens whose amount is not 0."""

    def edit(call: Call, hidden: Tensor) -> Tensor:
        rows = hidden.detach().movedim(call.axes(hidden), (0, 1))
        kept.append(rows[call.amounts(amount) != 0])
        return hidden

    return edit


def without(direction: Tensor, dtype: torch.dtype = torch.float64) -> Edit:
    """Takes the projection on `direction`, of norm 1, away from all that is there.

    `dtype`: in which the projection is computed; the result has the dtype of the stream.
    """
    exact = direction.to(dtype)

    def edit(call: Call, hidden: Tensor) -> Tensor:
        _require_width(hidden, direction)
        wide = hidden.to(dtype)
        return (wide - (wide @ exact)[..., None] * exact).to(hidden.dtype)

    return edit


def logits_of(model: Any, prompts: Prompts, edits: Edits = ()) -> Tensor:
    """The logits ``[B, P, V]`` of one forward without a past."""
    given: dict[str, Any] = {"input_ids": prompts.given}
    if not prompts.mask.all():
        given["attention_mask"] = prompts.mask
    torch.manual_seed(0)  # for what is random at every call, as Reformer's hashes
    with torch.no_grad(), hooked(model, prompts, edits):
        found: Tensor = model(**given).logits
    return found


def step_logits(
    model: Any,
    prompts: Prompts,
    continuation: Tensor,
    edits: Edits = (),
    use_cache: bool = True,
) -> Tensor:
    """The logits ``[B, N, V]`` of each of N steps of `generate`.

    `continuation` ``[B, N]`` is what is taken at each step whatever the logits are, so that runs
    can be compared to the last step.
    """
    width = prompts.ids.shape[1]

    def force(ids: Tensor, scores: Tensor) -> Tensor:
        chosen = continuation[:, ids.shape[1] - width, None]
        return torch.full_like(scores, -torch.inf).scatter(1, chosen, 0.0)

    torch.manual_seed(0)  # for what is random at every call, as Reformer's hashes
    with torch.no_grad(), hooked(model, prompts, edits):
        found = model.generate(
            input_ids=prompts.given,
            attention_mask=prompts.mask,
            max_new_tokens=continuation.shape[1],
            do_sample=False,
            logits_processor=[force],
            pad_token_id=0,
            output_logits=True,
            return_dict_in_generate=True,
            use_cache=use_cache,
        )
    return torch.stack(found.logits, 1)


def run_of_blocks(model: nn.Module, prompts: Prompts, count: int) -> dict[str, list[nn.Module]]:
    """Lists of `count` modules of parts that a forward calls, by path, outermost ones alone."""
    lists = {
        path: list(module)
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList)
        and len(module) == count
        and all(any(True for _ in block.children()) for block in module)
    }
    called: set[nn.Module] = set()
    with ExitStack() as stack:
        for module in {module for blocks in lists.values() for module in blocks}:
            hook = module.register_forward_hook(lambda m, a, o: called.add(m))
            stack.callback(hook.remove)
        logits_of(model, prompts)
    ran = {path: blocks for path, blocks in lists.items() if called & set(blocks)}
    return {
        path: blocks
        for path, blocks in ran.items()
        if not any(path.startswith(f"{outer}.") for outer in ran)
    }
