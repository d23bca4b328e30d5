"""Forward passes that start at a site, from inputs that were computed once for many settings.

A steered site computes `round((residual + added) + steering)`, so its two inputs are recorded
before steering. Starting there runs the same op as a whole forward pass would, and the results
differ only where the number of sequences does.
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

SiteInputs = tuple[Tensor, Tensor]  # a sublayer's output and the residual before it, [B, T, H]


class LayerReuse:
    """Records the inputs of the sites of a patched decoder, and starts forward passes from them."""

    def __init__(self, decoder: nn.Module) -> None:
        """Find the decoder's layers; of one of an unknown family, nothing can be recorded."""
        found = find_known(decoder)
        self.layers: list[Any] = []
        if found is not None:
            self.layers = family_layers(decoder, found[1])

    def supports(self, site: Site) -> bool:
        """Return whether a forward pass can start at the site."""
        return bool(self.layers) and site.kind != "resid_pre"

    @contextmanager
    def record_inputs(self, sites: Sequence[Site]) -> Iterator[dict[Site, SiteInputs]]:
        """Yield a dict that a forward pass inside the context fills with the inputs of the sites.

        The inputs are those of the unsteered model only where nothing steers below the sites.
        """
        recorded: dict[Site, SiteInputs] = {}

        def record(site: Site, added: Tensor, residual: Tensor) -> None:
            recorded[site] = added, residual

        with ExitStack() as stack:
            for site in sites:
                stream = self._stream(site.layer)
                table = stream.mid if site.kind == "resid_mid" else stream.post
                stack.enter_context(table.reading_inputs(partial(record, site)))
            yield recorded

    @contextmanager
    def start_at(self, site: Site, inputs: SiteInputs) -> Iterator[None]:
        """Start forward passes inside the context at `site` with `inputs`.

        Token ids then only determine the masks. Hooks on the layers below see meaningless hidden
        states, and those layers do not touch the cache.
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
