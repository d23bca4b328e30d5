"""Sites: the points of the residual stream at which a vector can act."""

from __future__ import annotations

from dataclasses import dataclass

SITES = ("resid_pre", "resid_mid", "resid_post")  # in the order of a forward pass


@dataclass(frozen=True)
class Site:
    """A point in the residual stream. `of` makes the one name that each point has."""

    layer: int
    kind: str

    @classmethod
    def of(cls, layer: int, kind: str) -> Site:
        """Return the site: ``resid_pre`` of layer L is ``resid_post`` of L-1, or the embedding."""
        if kind == "resid_pre" and layer > 0:
            return cls(layer - 1, "resid_post")
        return cls(layer, kind)

    @property
    def depth(self) -> tuple[int, int]:
        """Return a sort key: the order in which a forward pass reaches the sites."""
        return self.layer, SITES.index(self.kind)
