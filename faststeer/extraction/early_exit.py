"""Forward passes that read the residual stream at sites and stop after the last of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from faststeer.patching.patched import Patched
from faststeer.vectors.sites import Site

Select = Callable[[Tensor], Tensor]  # from hidden states [B, T, H] to what is kept of them


class _StopForward(Exception):
    """Signal that ends a forward pass after the last layer that is read."""


@contextmanager
def read_sites(
    patched: Patched, sites: Mapping[Site, int], select: Select
) -> Iterator[dict[int, Tensor]]:
    """Yield a dict that a forward pass fills: layer -> `select` of the hidden states at its site.

    The forward pass, called by `run_until_stop`, stops once every site was read.
    """
    found: dict[int, Tensor] = {}
    tables = {layer: patched.plan.tables[site] for site, layer in sites.items()}

    def reader(layer: int) -> Any:
        def read(hidden: Tensor) -> None:
            found[layer] = select(hidden)
            if len(found) == len(tables):
                raise _StopForward

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
def stop_at(patched: Patched, site: Site) -> Iterator[None]:
    """Stop forward passes inside the context at `site`, without reading anything."""
    table = patched.plan.tables[site]
    table.readers.append(_stop)
    try:
        yield
    finally:
        table.readers.remove(_stop)


def run_until_stop(decoder: nn.Module, patched: Patched, **given: Any) -> None:
    """Run a forward pass of the decoder that `read_sites` or `stop_at` may stop early."""
    try:
        decoder(**given)
    except _StopForward:  # end it as a complete forward pass does
        patched.plan.turns.end()
        patched.plan.tables.end()


def _stop(hidden: Tensor) -> None:
    raise _StopForward
