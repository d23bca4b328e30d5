"""Reuse of lower layers: forwards that start at a site, whose inputs were computed once.

A steered site is `round((residual + added) + steering)`, so its inputs are kept before steering. A
forward that starts there runs the very op that a whole forward would; only the number of sequences
differs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from faststeer.models.decoders import family_layers, find_known
from faststeer.models.fused_layers import FusedLayer
from faststeer.models.residual_stream import FusedResidual
from faststeer.vectors.sites import Site

SiteInputs = tuple[
    Tensor, Tensor
]  # what a layer adds at a site, and the residual before, [B, T, H]


class LayerReuse:
    """Keeps the inputs of sites, and starts forwards there, in a patched decoder."""

    def __init__(self, decoder: nn.Module) -> None:
        """Find the decoder's layers; without a known family nothing can be reused."""
        found = find_known(decoder)
        self.layers: list[Any] = []
        if found is not None:
            self.layers = family_layers(decoder, found[1])

    def can(self, site: Site) -> bool:
        """Return whether a forward can start at `site`: not below the first layer."""
        return bool(self.layers) and site.kind != "resid_pre"

    @contextmanager
    def keeping(self, sites: Sequence[Site]) -> Iterator[dict[Site, SiteInputs]]:
        """Inside, forwards that steer nowhere below the sites leave their inputs in this dict."""
        kept: dict[Site, SiteInputs] = {}

        def keep(site: Site, added: Tensor, residual: Tensor) -> None:
            kept[site] = added, residual

        with ExitStack() as stack:
            for site in sites:
                stream = self._stream(site.layer)
                table = stream.mid if site.kind == "resid_mid" else stream.post
                stack.enter_context(table.reading_inputs(partial(keep, site)))
            yield kept

    @contextmanager
    def from_site(self, site: Site, inputs: SiteInputs) -> Iterator[None]:
        """Inside, forwards start at `site` with `inputs`; their ids only shape the masks.

        Hooks on layers below see hidden states without meaning. Layers below touch no cache.
        """
        layer: FusedLayer = self.layers[site.layer]
        added, residual = inputs
        with ExitStack() as stack:
            for below in range(site.layer):
                stack.enter_context(self._stream(below).bypassed(_unchanged))
            start = self._stream(site.layer)
            stack.enter_context(
                start.bypassed(lambda hidden: layer.body_from(site.kind, added, residual))
            )
            yield

    def _stream(self, layer: int) -> FusedResidual:
        stream: FusedResidual = self.layers[layer].residual_stream
        return stream


def _unchanged(hidden: Tensor) -> Tensor:
    return hidden
