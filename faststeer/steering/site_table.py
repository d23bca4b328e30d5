"""One place of the residual stream: what steers it, and who reads it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor

from faststeer.steering.device_tables import DeviceTables, Entries
from faststeer.steering.learned import with_learned
from faststeer.vectors.sites import Site

if TYPE_CHECKING:
    from faststeer.steering.tables import Tables


class SiteTable:
    """One site's entries, as `faststeer.ops` takes them, on the device where the model is."""

    def __init__(self, tables: Tables, site: Site) -> None:
        """`tables`: all of them."""
        self.tables = tables
        self.site = site
        # Called once a forward with the residual stream [B, T, H] there, steered, which they must
        # not change. Compiled graphs compile anew when the first is added.
        self.readers: list[Callable[[Tensor], None]] = []

    def settle(self, bank: DeviceTables) -> None:
        """The site's tensors are in `bank` from now on."""
        self.bank = bank
        self.at = bank.position[self.site]

    def entries(self, hidden: Tensor) -> Entries:
        """For hidden states ``[B, T, H]``; none where nothing is steered, except to graphs.

        A graph always gets the tensors, and those of one shape: None would be another graph.
        """
        if self.bank.device != hidden.device:
            self.tables.move(self.site, hidden.device)
        entries = self.bank.entries(self.at, self.tables.in_graph)
        if self.tables.learned and not self.tables.off:
            return with_learned(entries, self.tables.learned.values(), self.site)
        return entries
