"""The bounds of a cap: a floor and a ceiling of the projection on a direction, per layer.

They are in units of the residual stream: dot products with the direction at norm 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

LARGEST = 3.4028234663852886e38  # of float32

# `floor=` or `ceiling=` of a cap: one for all layers, or one per layer; None for none
Bound: TypeAlias = float | Mapping[int, float] | None


class Bounds(NamedTuple):
    """The interval that a projection is held in."""

    floor: float = -math.inf
    ceiling: float = math.inf


def bounds_by_layer(floor: Bound, ceiling: Bound, layers: Iterable[int]) -> dict[int, Bounds]:
    """Return the bounds per layer, ascending.

    Args:
        floor: the least projection, for all `layers` or per layer.
        ceiling: the greatest, likewise.
        layers: those to cap; each needs a bound.

    Raises:
        TypeError: a bound that is not a number.
        ValueError: no bound, one that float32 cannot hold, a ceiling under its floor, a layer
            without bounds, or bounds of another layer.
    """
    if floor is None and ceiling is None:
        raise ValueError("a cap needs a bound: give ceiling=, floor= or both")
    wanted = sorted(layers)
    least = _by_layer(floor, "floor", wanted, -math.inf)
    most = _by_layer(ceiling, "ceiling", wanted, math.inf)
    found = {layer: Bounds(least[layer], most[layer]) for layer in wanted}
    for layer, (low, high) in found.items():
        if low > high:
            where = f" at layer {layer}" if bounded_layers(floor, ceiling) else ""
            raise ValueError(f"the ceiling {high:g} is under the floor {low:g}{where}")
        if math.isinf(low) and math.isinf(high):
            raise ValueError(
                f"layer {layer} has neither a floor nor a ceiling; leave it out of layers="
            )
    return found


def bounded_layers(floor: Bound, ceiling: Bound) -> list[int] | None:
    """Return the layers that bounds name, ascending; None where they name none."""
    named = [bound for bound in (floor, ceiling) if isinstance(bound, Mapping)]
    return sorted({layer for bound in named for layer in bound}) or None


def as_bounds(by_layer: Mapping[int, Bounds]) -> tuple[Bound, Bound]:
    """Return floor and ceiling as numbers where all layers have the same, else by layer."""
    return (
        _joined({layer: own.floor for layer, own in by_layer.items()}),
        _joined({layer: own.ceiling for layer, own in by_layer.items()}),
    )


def bounds_text(by_layer: Mapping[int, Bounds]) -> str:
    """Return bounds as messages show them: "floor -2, ceiling 3"."""
    floor, ceiling = as_bounds(by_layer)
    named = (("floor", floor), ("ceiling", ceiling))
    return ", ".join(f"{name} {_shown(bound)}" for name, bound in named if bound is not None)


def bounds_to_json(bound: Bound) -> Any:
    """Return a bound as files hold it: a number, or an object whose keys are layers as text."""
    if isinstance(bound, Mapping):
        return {str(layer): float(own) for layer, own in bound.items()}
    return None if bound is None else float(bound)


def bounds_from_json(stated: Any, what: str) -> Bound:
    """Return the bound that `bounds_to_json` wrote. Raises ValueError, naming it `what`."""
    try:
        if isinstance(stated, Mapping):
            return {
                _layer(key, what): _number(own, f"{what} of layer {key}")
                for key, own in stated.items()
            }
        return None if stated is None else _number(stated, what)
    except TypeError as error:
        raise ValueError(str(error)) from None


def _by_layer(bound: Bound, what: str, layers: list[int], absent: float) -> dict[int, float]:
    if bound is None:
        return dict.fromkeys(layers, absent)
    if not isinstance(bound, Mapping):
        return dict.fromkeys(layers, _number(bound, what))
    if others := [layer for layer in bound if layer not in layers]:
        raise ValueError(f"{what} names layer {others[0]}, and the layers to cap are {layers}")
    found = {layer: _number(own, f"{what} of layer {layer}") for layer, own in bound.items()}
    return dict.fromkeys(layers, absent) | found


def _number(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{what} is a {type(value).__name__}; expected a number")
    if not abs(value) <= LARGEST:
        raise ValueError(f"{what} is {value}; expected a finite number that float32 can hold")
    return float(value)


def _layer(key: Any, what: str) -> int:
    if type(key) is int:
        return key
    if not (isinstance(key, str) and key.isascii() and key.isdigit() and len(key) < 9):
        raise ValueError(f"{what} has {key!r}; expected numbers of layers")
    return int(key)


def _joined(by_layer: dict[int, float]) -> Bound:
    finite = {layer: own for layer, own in by_layer.items() if not math.isinf(own)}
    values = set(finite.values())
    if len(values) == 1 and len(finite) == len(by_layer):
        return values.pop()
    return finite or None


def _shown(bound: Bound) -> str:
    if isinstance(bound, Mapping):
        return "{" + ", ".join(f"{layer}: {own:g}" for layer, own in bound.items()) + "}"
    return f"{bound:g}"
