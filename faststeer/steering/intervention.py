"""One active vector: its coefficient, its mode, and where it acts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import torch

from faststeer.steering.conditions import Condition
from faststeer.steering.scopes import Scope
from faststeer.vectors.arguments import finite
from faststeer.vectors.bounds import Bound, Bounds, bounded_layers, bounds_by_layer
from faststeer.vectors.sites import Site
from faststeer.vectors.steering_vector import SteeringVector

Coefficients = Mapping[int, float]  # by layer
RowBounds = Mapping[str, Bound]  # what a row gives of a cap: floor, ceiling, fraction


class Cap(NamedTuple):
    """How far a projection is moved to the nearest point of its bounds: 1.0 is all the way."""

    fraction: float
    bounds: Bounds


Strengths = Mapping[int, float | Cap]  # by layer: coefficients, or caps


def as_row_bounds(given: object) -> RowBounds | None:
    """Return what a row gives of a cap; None for a coefficient, and for coefficients by layer."""
    if isinstance(given, Mapping) and any(isinstance(key, str) for key in given):
        return dict(given)
    return None


@dataclass
class Intervention:
    """An active vector: its coefficient, and a factor per layer that it steers.

    The directions of one that projects, clamps or caps have norm 1; `bounds`: of a cap, per layer
    that it steers.
    """

    vector: SteeringVector
    coefficient: float
    factors: Mapping[int, float]
    scope: Scope | None = None
    mode: str = "add"
    keep_norm: bool = False
    when: Condition | None = None
    kinds: tuple[str, ...] = ()  # of sites, where it acts at others than the vector's
    bounds: Mapping[int, Bounds] = field(default_factory=dict)
    judged: set[float] = field(default_factory=set)  # coefficients whose dose was measured

    @property
    def does_more_than_add(self) -> bool:
        """Whether kernels have to read modes."""
        return self.mode != "add" or self.keep_norm

    def kernel_mode(self, strength: float | Cap) -> tuple[float, ...]:
        """Return the numbers that `faststeer.ops.reference` has beside a unit direction."""
        keep = float(self.keep_norm)
        if isinstance(strength, Cap):
            return (0.0, strength.fraction, keep, *strength.bounds)
        if self.mode == "project":
            return (0.0, strength, keep, 0.0, 0.0)
        return (0.0, 1.0, keep, strength, strength)

    def by_layer(self, coefficient: float | Coefficients | None = None) -> Coefficients:
        """Return the coefficient per layer. `coefficient`: in place of its own, where given."""
        if isinstance(coefficient, Mapping):
            return coefficient
        if coefficient is None:
            coefficient = self.coefficient
        return {layer: coefficient * factor for layer, factor in self.factors.items()}

    def strengths(self, given: float | Coefficients | RowBounds | None = None) -> Strengths:
        """Return its part of a setting per layer. `given`: of a row, in place of its own.

        Raises:
            TypeError: a bound or a fraction that is not a number.
            ValueError: bounds of one that does not cap, impossible ones, or a layer without any.
        """
        if (of_row := as_row_bounds(given)) is not None:
            return self._caps_of_row(of_row)
        coefficients = self.by_layer(cast("float | Coefficients | None", given))
        if self.mode != "cap":
            return coefficients
        if lacking := [layer for layer in coefficients if layer not in self.bounds]:
            raise ValueError(f"layer {lacking[0]} has no bounds; give them by floor and ceiling")
        return {layer: Cap(own, self.bounds[layer]) for layer, own in coefficients.items()}

    def _caps_of_row(self, given: Mapping[str, Any]) -> Strengths:
        if self.mode != "cap":
            raise ValueError(f"mode {self.mode!r} has no {' or '.join(map(str, given))}")
        if unknown := [str(key) for key in given if key not in ("floor", "ceiling", "fraction")]:
            raise ValueError(f"{unknown[0]} is unknown; expected floor, ceiling or fraction")
        floor, ceiling = given.get("floor"), given.get("ceiling")
        bounds = bounds_by_layer(floor, ceiling, bounded_layers(floor, ceiling) or self.factors)
        fraction = finite(given.get("fraction", 1.0), "fraction")
        return {
            layer: Cap(fraction * self.factors.get(layer, 1.0), own)
            for layer, own in bounds.items()
        }

    def sites_of(self, layer: int) -> list[Site]:
        """Return the sites that a layer's direction acts at."""
        if not self.kinds:
            return [Site.of(layer, self.vector.site)]
        # resid_pre of a later layer is resid_post of the one before
        return [Site(layer, kind) for kind in self.kinds if layer == 0 or kind != "resid_pre"]

    def sites(self) -> set[Site]:
        """Return the sites that it steers."""
        return {site for layer in self.factors for site in self.sites_of(layer)}

    def require_finite(self, strengths: Strengths) -> None:
        """Raise ValueError where a product overflows float32."""
        for layer, strength in strengths.items():
            coefficient = strength.fraction if isinstance(strength, Cap) else strength
            largest = abs(coefficient) * float(self.vector.directions[layer].abs().max())
            if not max(abs(coefficient), largest) <= torch.finfo(torch.float32).max:
                raise ValueError(
                    f"coefficient {coefficient:g} times {self.vector.name!r} at layer {layer} is "
                    "more than float32 can hold"
                )
