"""One active vector: its coefficient, its mode, and where it acts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from faststeer.steering.conditions import Condition
from faststeer.steering.positions import Scope
from faststeer.vectors.sites import Site
from faststeer.vectors.steering_vector import SteeringVector

Coefficients = Mapping[int, float]  # by layer


@dataclass
class Intervention:
    """An active vector: its coefficient, and a factor per layer that it steers.

    The directions of one that projects or clamps have norm 1.
    """

    vector: SteeringVector
    coefficient: float
    factors: Mapping[int, float]
    scope: Scope | None = None
    mode: str = "add"
    keep_norm: bool = False
    when: Condition | None = None
    kinds: tuple[str, ...] = ()  # of sites, where it acts at others than the vector's
    judged: set[float] = field(default_factory=set)  # coefficients whose dose was measured

    @property
    def does_more_than_add(self) -> bool:
        """Whether kernels have to read modes."""
        return self.mode != "add" or self.keep_norm

    def push_and_pull(self, coefficients: Tensor) -> tuple[Tensor, Tensor]:
        """Return push and pull, as `faststeer.ops.reference` names them, of a unit direction."""
        if self.mode == "project":
            return torch.zeros_like(coefficients), coefficients
        return coefficients, torch.ones_like(coefficients)

    def by_layer(self, coefficient: float | Coefficients | None = None) -> Coefficients:
        """Return the coefficient per layer. `coefficient`: in place of its own, where given."""
        if isinstance(coefficient, Mapping):
            return coefficient
        if coefficient is None:
            coefficient = self.coefficient
        return {layer: coefficient * factor for layer, factor in self.factors.items()}

    def sites_of(self, layer: int) -> list[Site]:
        """Return the sites that a layer's direction acts at."""
        if not self.kinds:
            return [Site.of(layer, self.vector.site)]
        # resid_pre of a later layer is resid_post of the one before
        return [Site(layer, kind) for kind in self.kinds if layer == 0 or kind != "resid_pre"]

    def sites(self) -> set[Site]:
        """Return the sites that it steers."""
        return {site for layer in self.factors for site in self.sites_of(layer)}

    def require_finite(self, coefficients: Coefficients) -> None:
        """Raise ValueError where a product overflows float32."""
        for layer, coefficient in coefficients.items():
            largest = abs(coefficient) * float(self.vector.directions[layer].abs().max())
            if not max(abs(coefficient), largest) <= torch.finfo(torch.float32).max:
                raise ValueError(
                    f"coefficient {coefficient:g} times {self.vector.name!r} at layer {layer} is "
                    "more than float32 can hold"
                )
