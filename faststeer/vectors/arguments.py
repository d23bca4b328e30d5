"""Checks of the arguments `vector`, `layers` and `coefficient`, which several functions take."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from faststeer.vectors.steering_vector import SteeringVector

# `layers=` of a vector: None or "all" for all of its layers, a mapping for a factor on the
# coefficient per layer
Layers: TypeAlias = str | int | Sequence[int] | Mapping[int, float] | None


def require_fitting(vector: Any, hidden_size: int, caller: str) -> None:
    """Raise TypeError for anything but a SteeringVector, ValueError for another hidden size."""
    if not isinstance(vector, SteeringVector):
        raise TypeError(
            f"{caller}() got a {type(vector).__name__}; expected a SteeringVector, such as "
            "SteeringVector('name', {layer: tensor})"
        )
    if vector.hidden_size != hidden_size:
        raise ValueError(
            f"vector {vector.name!r} has hidden size {vector.hidden_size}, but the model's is "
            f"{hidden_size}: it was made for another model"
        )


def require_several(vectors: object, argument: str) -> None:
    """Raise TypeError for one vector in place of a list of them: it iterates over its layers."""
    if isinstance(vectors, SteeringVector):
        raise TypeError(f"{argument} is a SteeringVector; expected a list, such as [vector]")


def layer_factors(vector: SteeringVector, layers: Layers, num_layers: int) -> dict[int, float]:
    """Return the factor on the coefficient per layer; None or "all" is 1.0 at each of the vector.

    Raises:
        TypeError: a factor that is not a number.
        ValueError: no layers, a layer that the model or the vector lacks, or a factor that is not
            finite.
    """
    if layers is None or layers == "all":
        factors = dict.fromkeys(vector.layers, 1.0)
    elif isinstance(layers, str):
        raise ValueError(f"layers is {layers!r}; expected 'all', a number or several")
    elif isinstance(layers, Mapping):
        factors = {n: finite(f, f"factor of layer {n}") for n, f in layers.items()}
    else:
        factors = dict.fromkeys([layers] if isinstance(layers, int) else layers, 1.0)
    if not factors:
        raise ValueError("no layers were given; leave `layers` out to steer all the vector has")
    for layer in factors:
        if not 0 <= layer < num_layers:
            raise ValueError(f"layer {layer} is out of range: the model has 0 to {num_layers - 1}")
    vector.select(factors)
    return factors


def finite(coefficient: float, what: str) -> float:
    """Return `coefficient` as a float.

    Raises:
        TypeError: it is not a number; `what` names it in the message.
        ValueError: it is not finite.
    """
    if isinstance(coefficient, bool) or not isinstance(coefficient, (int, float)):
        raise TypeError(f"{what} is a {type(coefficient).__name__}; expected a number")
    try:
        number = float(coefficient)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{what} is {number}; expected a finite number")
    return number


def chosen_layers(layers: str | int | Sequence[int], count: int) -> list[int]:
    """Return 0-based layer numbers, ascending; "all" is every layer of `count`.

    Raises:
        ValueError: no layers, or one out of range.
    """
    if isinstance(layers, str):
        if layers != "all":
            raise ValueError(f"layers is {layers!r}; expected 'all', a number or several")
        return list(range(count))
    chosen = sorted({layers} if isinstance(layers, int) else set(layers))
    if not chosen:
        raise ValueError("layers is empty; expected 'all', a number or several")
    for layer in chosen:
        if not 0 <= layer < count:
            raise ValueError(f"layer {layer} is out of range: the model has 0 to {count - 1}")
    return chosen
