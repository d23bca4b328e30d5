"""Lines: the entries of each different set of terms that acts on a token of the batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from faststeer.vllm.slots import Entries
from faststeer.vllm.timeline import Active

NO_LINE = 0  # the line of tokens that are not steered
_FEWEST = 64


class Lines:
    """A cache of lines: `index` ``[sites, L, K]`` int32 and `coefficient`, of the same shape.

    Only the tokens of one step need lines at a time, so there are never many more than the batch
    has requests, however many settings have come and gone.
    """

    def __init__(
        self,
        sites: int,
        columns: int,
        device: torch.device,
        entries: Callable[[Active], Mapping[int, Entries]],
    ) -> None:
        """Create the table with the line of no steering alone.

        Args:
            sites: how many.
            columns: K, the most entries of a token at a site.
            device: of the tables.
            entries: returns the entries of a set of terms, by site.
        """
        self._entries = entries
        self._lines: dict[Active, int] = {}  # the longest unused first
        with torch.inference_mode(False):
            self.index = torch.full((sites, _FEWEST, columns), -1, dtype=torch.int32, device=device)
            self.coefficient = torch.zeros(self.index.shape, device=device)

    def __len__(self) -> int:
        """Return how many sets of terms have lines."""
        return len(self._lines)

    @property
    def room(self) -> int:
        """How many lines there is room for, that of no steering included."""
        return self.index.shape[1]

    def place(self, needed: Iterable[Active]) -> dict[Active, int]:
        """Return the line of each set of terms, all of which are needed in one step.

        Sets without terms have `NO_LINE`. Lines that are not needed make room, the longest unused
        first; where even that is too little, the tables grow to twice their size.
        """
        found: dict[Active, int] = {}
        missing = []
        for active in dict.fromkeys(needed):
            if not active:
                found[active] = NO_LINE
            elif active in self._lines:
                found[active] = self._lines[active] = self._lines.pop(active)  # now the latest
            else:
                missing.append(active)
        for active in missing:
            found[active] = self._new_line(active, found)
        if missing:
            self._write({active: found[active] for active in missing})
        return found

    def forget(self) -> None:
        """Forget all lines, whose slots may have come to hold other vectors."""
        self._lines.clear()

    def _new_line(self, active: Active, needed: Mapping[Active, int]) -> int:
        if len(self._lines) + 1 < self.room:
            line = len(self._lines) + 1  # those in use are always 1 to len: see below
        else:
            oldest = next((own for own in self._lines if own not in needed), None)
            if oldest is None:
                self._grow()
                return self._new_line(active, needed)
            line = self._lines.pop(oldest)  # taken over at once
        self._lines[active] = line
        return line

    def _grow(self) -> None:
        with torch.inference_mode(False), torch.no_grad():
            self.index = torch.cat([self.index, torch.full_like(self.index, -1)], 1)
            self.coefficient = torch.cat([self.coefficient, torch.zeros_like(self.coefficient)], 1)

    def _write(self, placed: Mapping[Active, int]) -> None:
        sites, _, columns = self.index.shape
        index = torch.full((sites, len(placed), columns), -1, dtype=torch.int32)
        coefficient = torch.zeros(index.shape)
        for at, active in enumerate(placed):
            for site, entries in self._entries(active).items():
                for column, (slot, factor) in enumerate(entries):
                    index[site, at, column] = slot
                    coefficient[site, at, column] = factor
        lines = torch.tensor(list(placed.values()), device=self.index.device)
        with torch.inference_mode(False), torch.no_grad():
            self.index.index_copy_(1, lines, index.to(self.index.device))
            self.coefficient.index_copy_(1, lines, coefficient.to(self.index.device))


def gather(table: Tensor, token_line: Tensor, into: Tensor) -> None:
    """Write ``table[:, token_line]`` into the first tokens of `into`, ``[sites, N, K]``."""
    into[:, : len(token_line)] = table.index_select(1, token_line)
