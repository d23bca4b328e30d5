"""Forward passes that read the residual stream at sites and stop after the last of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from faststeer.patching.patched import Patched
from faststeer.vectors.sites import Site

Select = Callable[[int, Tensor], Tensor]  # layer, hidden states [B, T, H] -> what is kept of them


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

    def read(layer: int, hidden: Tensor) -> None:
        found[layer] = select(layer, hidden)
        if len(found) == len(sites):
            raise _StopForward

    with ExitStack() as stack:
        for site, layer in sites.items():
            stack.enter_context(patched.plan.reading(site, partial(read, layer)))
        yield found


def run_until_stop(decoder: nn.Module, patched: Patched, **given: Any) -> None:
    """Run a forward pass of the decoder that `read_sites` may stop."""
    try:
        decoder(**given)
    except _StopForward:  # the hook that ends a forward did not run
        patched.plan.end()
