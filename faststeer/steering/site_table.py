"""One site of the residual stream: its entries, and the callbacks that read it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from faststeer.steering.device_tables import NO_ENTRIES, DeviceTables, Entries
from faststeer.steering.forward_context import ForwardContext
from faststeer.steering.learned import Learned, with_learned
from faststeer.vectors.sites import Site

Reader = Callable[[Tensor], None]
InputsReader = Callable[[Tensor, Tensor], None]


class SiteTable:
    """The entries of one site, as `faststeer.ops` takes them, on the device of its layer.

    `readers` are called once per forward with the residual stream ``[B, T, H]`` there, steered,
    which they must not change; `inputs_readers` with what is added there and the residual before,
    each ``[B, T, H]`` (fused layers only). Compiled graphs recompile when the first is added.
    """

    def __init__(
        self,
        site: Site,
        forward: ForwardContext,
        learned: Sequence[Learned],
        moved: Callable[[Site, torch.device], None],
    ) -> None:
        """Create the table.

        Args:
            site: where it is.
            forward: knows whether the running forward becomes a graph.
            learned: the learned vectors that act now, a list that is changed in place.
            moved: called when the site's layer turns out to be on another device.
        """
        self.site = site
        self.forward = forward
        self.learned = learned
        self.moved = moved
        self.readers: list[Reader] = []
        self.inputs_readers: list[InputsReader] = []

    def place(self, tables: DeviceTables) -> None:
        """Read the site's tensors from `tables` from now on."""
        self.tables = tables
        self.at = tables.position[self.site]

    def entries(self, hidden: Tensor) -> Entries:
        """Return the entries for hidden states ``[B, T, H]``, all None where nothing is steered.

        A graph always gets the tensors, of one shape: None would be another graph.
        """
        if not self.forward.in_graph:
            return self.eager_entries(hidden)
        if self.tables.device != hidden.device:
            self.moved(self.site, hidden.device)
        entries = self.tables.entries_of_graph(self.at)
        return with_learned(entries, self.learned, self.site) if self.learned else entries

    def eager_entries(self, hidden: Tensor) -> Entries:
        """Return the entries of a forward that is known not to become a compiled graph.

        Asked for at every site of every eager forward, it calls no other function.
        """
        if self.forward.capturing:
            return self.entries(hidden)
        if self.tables.device != hidden.device:
            self.moved(self.site, hidden.device)
        tables = self.tables
        view = tables.views[self.at]
        entries = NO_ENTRIES if view is None else (view[0], *tables.current, view[1])
        return with_learned(entries, self.learned, self.site) if self.learned else entries

    def folded_entries(self) -> Entries:
        """Return the entries of an eager forward, learned vectors left out."""
        return self.tables.entries(self.at)

    @contextmanager
    def reading(self, reader: Reader) -> Iterator[None]:
        """Inside, call `reader` at the site in every forward."""
        self.readers.append(reader)
        try:
            yield
        finally:
            self.readers.remove(reader)

    @contextmanager
    def reading_inputs(self, reader: InputsReader) -> Iterator[None]:
        """Inside, call `reader` with what is added at the site and the residual before."""
        self.inputs_readers.append(reader)
        try:
            yield
        finally:
            self.inputs_readers.remove(reader)
