"""Forwards that hand over what they compute at sites, and end after the last of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from faststeer.patching.patched import Patched
from faststeer.vectors.sites import Site

Take = Callable[[Tensor], Tensor]


class _Stop(Exception):
    """Ends a forward after the last layer that is read."""


@contextmanager
def reading(patched: Patched, sites: Mapping[Site, int], take: Take) -> Iterator[dict[int, Tensor]]:
    """Inside, keep by layer what `take` makes of the stream, and end forwards after the last site.

    Args:
        patched: the handle of the model.
        sites: the layer under which each site's result is kept.
        take: ``[B, T, H]`` to what is kept.
    """
    found: dict[int, Tensor] = {}

    def read(layer: int, hidden: Tensor) -> None:
        found[layer] = take(hidden)
        if len(found) == len(sites):
            raise _Stop

    with ExitStack() as stack:
        for site, layer in sites.items():
            stack.enter_context(patched.plan.reading(site, partial(read, layer)))
        yield found


@contextmanager
def ending_at(patched: Patched, site: Site) -> Iterator[None]:
    """Inside, end forwards at `site`, and keep nothing."""
    with patched.plan.reading(site, _stop):
        yield


def run(decoder: nn.Module, patched: Patched, **given: Any) -> None:
    """Run a forward of the decoder that `reading` or `ending_at` may end."""
    try:
        decoder(**given)
    except _Stop:  # the hook that ends a forward did not run
        patched.plan.end()


def _stop(hidden: Tensor) -> None:
    raise _Stop
