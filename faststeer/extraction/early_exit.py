"""Forwards that hand over what they compute at sites, and end after the last of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from faststeer.patching.patched import Patched
from faststeer.vectors.sites import Site

Take = Callable[[Tensor], Tensor]


class _Stop(Exception):
    """Ends a forward after the last layer that is read."""


@contextmanager
def reading(patched: Patched, sites: Mapping[Site, int], take: Take) -> Iterator[dict[int, Tensor]]:
    """Readers at the sites keep, by layer, what they take; after the last the forward ends."""
    found: dict[int, Tensor] = {}
    tables = {layer: patched.plan.tables[site] for site, layer in sites.items()}

    def reader(layer: int) -> Any:
        def read(hidden: Tensor) -> None:
            found[layer] = take(hidden)
            if len(found) == len(tables):
                raise _Stop

        return read

    readers = [(table, reader(layer)) for layer, table in tables.items()]
    for table, read in readers:
        table.readers.append(read)
    try:
        yield found
    finally:
        for table, read in readers:
            table.readers.remove(read)


@contextmanager
def ending_at(patched: Patched, site: Site) -> Iterator[None]:
    """Inside, forwards end at `site`, and nothing is kept of it."""
    table = patched.plan.tables[site]
    table.readers.append(_stop)
    try:
        yield
    finally:
        table.readers.remove(_stop)


def run(decoder: nn.Module, patched: Patched, **given: Any) -> None:
    """A forward of the decoder that may be ended by `reading` or `ending_at`."""
    try:
        decoder(**given)
    except _Stop:  # what is told to the plan at the end of a forward
        patched.plan.turns.end()
        patched.plan.tables.end()


def _stop(hidden: Tensor) -> None:
    raise _Stop
