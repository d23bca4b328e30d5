"""The check that a decoder runs each layer exactly once per forward pass, as reading requires."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial

from torch import Tensor

from faststeer.models.text_calls import TextCalls, unsteered
from faststeer.patching.patched import Patched
from faststeer.vectors.sites import Site


def require_single_pass(
    patched: Patched, calls: TextCalls, sites: Mapping[Site, int], row: list[int]
) -> None:
    """Run one text of token ids `row` and count how often each layer to be read runs.

    Steering acts on every run of a layer, as in Dory, so no single run is the residual stream that
    a vector should be made from.

    Raises:
        ValueError: a layer runs several times, or not at all.
    """
    passes = dict.fromkeys(sites.values(), 0)

    def count(layer: int, hidden: Tensor) -> None:
        passes[layer] += 1

    with ExitStack() as stack:
        for site, layer in sites.items():
            stack.enter_context(patched.plan.reading(site, partial(count, layer)))
        stack.enter_context(unsteered(calls.decoder))
        calls.decoder(**calls.arguments(calls.batch([row], None)))
    decoder = type(calls.decoder).__name__
    if skipped := [layer for layer, times in passes.items() if not times]:
        raise ValueError(
            f"a {decoder} does not run layers {skipped} on texts alone; choose layers= that it runs"
        )
    if repeated := [layer for layer, times in passes.items() if times > 1]:
        raise ValueError(
            f"a {decoder} runs layers {repeated} several times per forward pass, so these have no "
            "single residual stream to read; choose layers= that run once"
        )
