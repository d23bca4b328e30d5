"""Sites: the places of the residual stream that a vector can act on."""

from __future__ import annotations

from dataclasses import dataclass

SITES = ("resid_pre", "resid_mid", "resid_post")  # in the order in which a layer has them


@dataclass(frozen=True)
class Site:
    """A place in the residual stream. Every place has one name: see `of`."""

    layer: int
    kind: str

    @classmethod
    def of(cls, layer: int, kind: str) -> Site:
        """``resid_pre`` of layer L is ``resid_post`` of L-1, and for layer 0 the embedding."""
        if kind == "resid_pre" and layer > 0:
            return cls(layer - 1, "resid_post")
        return cls(layer, kind)

    @property
    def depth(self) -> tuple[int, int]:
        """By which sites are sorted in the order in which a forward comes to them."""
        return self.layer, SITES.index(self.kind)
