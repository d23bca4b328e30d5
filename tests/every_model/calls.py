"""Prompts and calls of a model: the columns of each call, and their axes in a tensor.

A hook sees a block's tensor without its columns. So a run counts the columns of its calls: the
first call holds the prompts, and each later one ends one token later, whether it holds one token
(with a cache) or all of them (without).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import permutations

import torch
from torch import Tensor

# (sequence, position or None for padding, length of its prompt) -> factor of the direction there
Amount = Callable[[int, "int | None", int], float]


class Unreadable(Exception):
    """Raised for a block's tensor whose axes do not match the call."""


@dataclass(frozen=True)
class Prompts:
    """Token ids ``[B, P]``, padded on the left where `mask` ``[B, P]`` is 0.

    `lines`: rows of ids per sequence, such as MusicGen's codebooks; all get the same ids here.
    """

    ids: Tensor
    mask: Tensor
    lines: int = 1

    @property
    def given(self) -> Tensor:
        """The ids in the model's layout."""
        return self.ids.repeat_interleave(self.lines, 0)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each prompt."""
        return [int(row.sum()) for row in self.mask]


@dataclass
class Call:
    """One call of the model, with the `given` columns that end at column `end`.

    `layout`: by rank of a tensor, which axes count sequences and tokens, as an earlier call of the
    run has shown; later ones may hold as many tokens as sequences.
    """

    prompts: Prompts
    end: int
    given: int
    layout: dict[int, tuple[int, int]]

    def axes(self, hidden: Tensor) -> tuple[int, int]:
        """Return the axes of sequences and tokens of a block's tensor. Raises Unreadable."""
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
        """Return the first axis of a block's tensor that fits the sequences. Raises Unreadable."""
        with suppress(Unreadable):
            return self.axes(hidden)[0]
        batch = len(self.prompts.ids)
        found = [axis for axis in range(hidden.dim() - 1) if hidden.shape[axis] == batch]
        if not found:
            raise Unreadable(f"a block returned {tuple(hidden.shape)} for {batch} sequences")
        return found[0]

    def amounts(self, amount: Amount) -> Tensor:
        """Return the factors ``[B, T]`` of this call's tokens."""
        lengths, width = self.prompts.lengths, self.prompts.ids.shape[1]
        columns = range(self.end - self.given, self.end)
        rows = []
        for row, length in enumerate(lengths):
            positions = [column - (width - length) for column in columns]
            rows.append([amount(row, p if p >= 0 else None, length) for p in positions])
        return torch.tensor(rows, dtype=torch.float32)
