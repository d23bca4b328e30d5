"""Settings as `Patched.rows` takes them: which vector acts where, and how strongly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from faststeer.evaluate.records import Setting

ADD, SUBTRACT = "add", "subtract"
DIRECTIONS = (ADD, SUBTRACT)
UNSTEERED: Setting = {}

Coefficients = Mapping[str, float]  # by the name of a behaviour


class Place(NamedTuple):
    """Where a vector acts alone, and whether it is added or subtracted."""

    name: str
    layer: int
    direction: str


Tuned = Mapping[Place, float]


def alone(name: str, layer: int, coefficient: float) -> Setting:
    """Return the setting of one vector at one layer."""
    return {name: {layer: coefficient}}


def at_once(layers: Mapping[str, int], coefficients: Coefficients) -> Setting:
    """Return the setting of each vector at its own layer; those of coefficient 0 are left out."""
    return {name: {layers[name]: c} for name, c in coefficients.items() if c}


class Variant(NamedTuple):
    """A way to combine several vectors into one."""

    by_mean: bool
    weighted: bool
    direction: str

    @property
    def shown(self) -> str:
        """The name in tables."""
        kind = "mean" if self.by_mean else "sum"
        return f"{kind}, {'weighted' if self.weighted else 'unweighted'}, {self.direction}"


VARIANTS = [
    Variant(by_mean, weighted, direction)
    for by_mean in (True, False)
    for weighted in (False, True)
    for direction in DIRECTIONS
]


def combined(variant: Variant, layer: int, tuned: Tuned) -> Setting:
    """Return the setting of all vectors at one layer that equals one combined vector.

    Weights are the tuned coefficients, which are negative where a vector is subtracted.
    """
    own = {
        place.name: c
        for place, c in tuned.items()
        if (place.layer, place.direction) == (layer, variant.direction)
    }
    sign = 1.0 if variant.direction == ADD else -1.0
    share = 1 / len(own) if variant.by_mean else 1.0
    return {name: {layer: share * (c if variant.weighted else sign)} for name, c in own.items()}
