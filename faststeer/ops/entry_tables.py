"""Steering arguments that stay at their addresses, and that an op takes by a number.

Where an op is called from a compiled step, everything that it reads is cold: naming four tensors
costs more than a kernel of one row. A call by number reads what was checked once.
"""

from __future__ import annotations

import weakref

import torch
from torch import Tensor

_numbers: set[int] = set()  # in use in this process


class EntryTable:
    """The entries of a batch's tokens, and their vectors, which calls read as they are then.

    A call of N tokens reads the first N lines. The number is free again, for the same graphs in a
    later engine, when the table is gone.
    """

    def __init__(self, vectors: Tensor, index: Tensor, coefficient: Tensor, modes: Tensor) -> None:
        """Give the table the lowest number that is free.

        Args:
            vectors: ``[S, H]``.
            index: ``[R, K]`` int32, -1 for none.
            coefficient: ``[R, K]`` float32.
            modes: ``[S, 5]`` float32.
        """
        self.index = index
        self.number = min(set(range(len(_numbers) + 1)) - _numbers)
        torch.ops.faststeer.set_entry_table(self.number, vectors, index, coefficient, modes)
        _numbers.add(self.number)
        weakref.finalize(self, _drop, index, self.number)


def _drop(index: Tensor, number: int) -> None:
    torch.ops.faststeer.drop_entry_table(index, number)
    _numbers.discard(number)
