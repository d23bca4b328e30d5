"""A forward that goes on from a site in the middle: what is below it was computed once, for all.

A steered site is `round((residual + added) + steering)`, so what comes together there is kept
before steering. Going on from it runs the very op that a whole forward would, and only the numbers
of sequences differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from faststeer.models.decoders import family_layers, find_known
from faststeer.models.fused_layers import FusedLayer
from faststeer.vectors.sites import Site

SiteInputs = tuple[
    Tensor, Tensor
]  # what a layer adds at a site, and the residual before, [B, T, H]


class LayerReuse:
    """Keeps and gives back what meets at the sites of a patched decoder of a known family."""

    def __init__(self, decoder: nn.Module) -> None:
        """Of a decoder whose layers are not known from within, nothing can be kept."""
        found = find_known(decoder)
        self.layers: list[Any] = []
        if found is not None:
            self.layers = family_layers(decoder, found[1])

    def can(self, site: Site) -> bool:
        """Whether a forward can go on from there. Nothing lies below the first layer's input."""
        return bool(self.layers) and site.kind != "resid_pre"

    @contextmanager
    def keeping(self, sites: Sequence[Site]) -> Iterator[dict[Site, SiteInputs]]:
        """Inside, a forward that steers nowhere below them leaves here what met at the sites."""
        kept: dict[Site, SiteInputs] = {}
        with ExitStack() as undoing:
            for site in sites:
                stream = self.layers[site.layer]._faststeer
                if site.kind == "resid_mid":
                    undoing.enter_context(_replaced(stream, "middle", _middle(stream, site, kept)))
                else:
                    undoing.enter_context(_replaced(stream, "leave", _leave(stream, site, kept)))
            yield kept

    @contextmanager
    def from_site(self, site: Site, meeting: SiteInputs) -> Iterator[None]:
        """Inside, forwards begin at `site` with `meeting`; their ids only say what the masks are.

        Hooks on layers below see hidden states without meaning. Layers below touch no cache.
        """
        layer = self.layers[site.layer]

        def begin(hidden_states: Tensor, **kwargs: Any) -> tuple[Tensor, None]:
            added, residual = meeting
            if site.kind == "resid_mid":
                return layer.from_middle(added, residual), None
            return layer._faststeer.leave(layer, added, residual), None

        with ExitStack() as undoing:
            for below in self.layers[: site.layer]:
                undoing.enter_context(_replaced(below, "through", _passed))
            undoing.enter_context(_replaced(layer, "through", begin))
            yield


def _passed(hidden_states: Tensor, **kwargs: Any) -> tuple[Tensor, None]:
    return hidden_states, None


def _middle(stream: Any, site: Site, kept: dict[Site, SiteInputs]) -> Any:
    own = stream.middle

    def middle(added: Tensor, hidden: Tensor, norm: nn.Module) -> Any:
        kept[site] = added, hidden
        return own(added, hidden, norm)

    return middle


def _leave(stream: Any, site: Site, kept: dict[Site, SiteInputs]) -> Any:
    own = stream.leave

    def leave(layer: FusedLayer, added: Tensor, hidden: Tensor) -> Any:
        kept[site] = added, hidden
        return own(layer, added, hidden)

    return leave


@contextmanager
def _replaced(owner: Any, name: str, method: Any) -> Iterator[None]:
    """Inside, an instance has a method of its own in place of its class's."""
    owner.__dict__[name] = method
    try:
        yield
    finally:
        del owner.__dict__[name]
