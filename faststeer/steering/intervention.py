"""One vector at work: what it does, how much of it, and where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from faststeer.steering.conditions import Condition
from faststeer.steering.positions import Scope
from faststeer.vectors.sites import Site
from faststeer.vectors.steering_vector import SteeringVector

Weights = Mapping[int, float]  # layer -> what a direction is multiplied by, or set to


@dataclass
class Intervention:
    """A vector at work: its coefficient and a factor for each layer it steers.

    The directions of one that projects or clamps have norm 1.
    """

    vector: SteeringVector
    coefficient: float
    factors: Mapping[int, float]
    scope: Scope | None = None
    mode: str = "add"
    keep_norm: bool = False
    when: Condition | None = None
    kinds: tuple[str, ...] = ()  # of sites, where it goes to others than the vector's
    judged: set[float] = field(default_factory=set)  # magnitudes whose dose was measured

    @property
    def does_more_than_add(self) -> bool:
        """Whether kernels have to be told of modes."""
        return self.mode != "add" or self.keep_norm

    def push_and_pull(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Return push and pull, as `faststeer.ops.reference` names them, of a unit direction."""
        if self.mode == "project":
            return torch.zeros_like(weights), weights
        return weights, torch.ones_like(weights)

    def weights(self, amount: float | Weights | None = None) -> Weights:
        """What each layer's direction is multiplied by, with `amount` for its own coefficient."""
        if isinstance(amount, Mapping):
            return amount
        coefficient = self.coefficient if amount is None else amount
        return {layer: coefficient * factor for layer, factor in self.factors.items()}

    def sites_of(self, layer: int) -> list[Site]:
        """Where a layer's direction goes."""
        if not self.kinds:
            return [Site.of(layer, self.vector.site)]
        # resid_pre of a later layer is resid_post of the one before
        return [Site(layer, kind) for kind in self.kinds if layer == 0 or kind != "resid_pre"]

    def sites(self) -> set[Site]:
        """The places it steers."""
        return {site for layer in self.factors for site in self.sites_of(layer)}

    def require_finite(self, weights: Weights) -> None:
        """Raise ValueError where a product overflows float32."""
        for layer, weight in weights.items():
            largest = abs(weight) * float(self.vector.directions[layer].abs().max())
            if not max(abs(weight), largest) <= torch.finfo(torch.float32).max:
                raise ValueError(
                    f"coefficient {weight:g} times {self.vector.name!r} at layer {layer} is more "
                    "than float32 can hold"
                )
