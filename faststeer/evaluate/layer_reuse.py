"""Forward passes that start at a site, from inputs that were computed once for many settings.

A steered site computes `round((residual + added) + steering)`, so its two inputs are recorded
before steering. Starting there runs the same op as a whole forward pass would, and the results
differ only where the number of sequences does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from faststeer.models.decoders import family_layers, find_known
from faststeer.models.fused_layers import FusedLayer
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
        with ExitStack() as stack:
            for site in sites:
                stream = self.layers[site.layer]._faststeer
                if site.kind == "resid_mid":
                    stack.enter_context(
                        _replaced(stream, "middle", _middle(stream, site, recorded))
                    )
                else:
                    stack.enter_context(_replaced(stream, "leave", _leave(stream, site, recorded)))
            yield recorded

    @contextmanager
    def start_at(self, site: Site, inputs: SiteInputs) -> Iterator[None]:
        """Start forward passes inside the context at `site` with `inputs`.

        Token ids then only determine the masks. Hooks on the layers below see meaningless hidden
        states, and those layers do not touch the cache.
        """
        layer = self.layers[site.layer]

        def begin(hidden_states: Tensor, **kwargs: Any) -> tuple[Tensor, None]:
            added, residual = inputs
            if site.kind == "resid_mid":
                return layer.from_middle(added, residual), None
            return layer._faststeer.leave(layer, added, residual), None

        with ExitStack() as stack:
            for below in self.layers[: site.layer]:
                stack.enter_context(_replaced(below, "through", _skip))
            stack.enter_context(_replaced(layer, "through", begin))
            yield


def _skip(hidden_states: Tensor, **kwargs: Any) -> tuple[Tensor, None]:
    return hidden_states, None


def _middle(stream: Any, site: Site, recorded: dict[Site, SiteInputs]) -> Any:
    original = stream.middle

    def middle(added: Tensor, hidden: Tensor, norm: nn.Module) -> Any:
        recorded[site] = added, hidden
        return original(added, hidden, norm)

    return middle


def _leave(stream: Any, site: Site, recorded: dict[Site, SiteInputs]) -> Any:
    original = stream.leave

    def leave(layer: FusedLayer, added: Tensor, hidden: Tensor) -> Any:
        recorded[site] = added, hidden
        return original(layer, added, hidden)

    return leave


@contextmanager
def _replaced(owner: Any, name: str, method: Any) -> Iterator[None]:
    """Replace a method of one instance inside the context."""
    owner.__dict__[name] = method
    try:
        yield
    finally:
        del owner.__dict__[name]
