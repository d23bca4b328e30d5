"""How a vector steers: what the caller gives, or else what it states."""

from __future__ import annotations

from collections.abc import Container, Mapping

import torch

from faststeer.steering.positions import Positions, scope_of, scope_of_range
from faststeer.steering.scopes import Scope
from faststeer.vectors.arguments import Layers, layer_factors
from faststeer.vectors.bounds import (
    Bound,
    Bounds,
    bounded_layers,
    bounds_by_layer,
    bounds_from_json,
)
from faststeer.vectors.position_range import NAMED_POSITIONS, parse_positions, positions_to_text
from faststeer.vectors.stated_use import MODES, require_mode, warn_of_other_use
from faststeer.vectors.steering_vector import SteeringVector


def resolve_mode(vector: SteeringVector, mode: str | None) -> str:
    """Return `mode`, or if it is None the vector's stated mode, or "add".

    Raises:
        ValueError: an unknown mode.
    """
    stated = vector.metadata.get("mode")
    if mode is None:
        if stated is not None and stated not in MODES:
            raise ValueError(
                f"vector {vector.name!r} states mode {stated!r}, which is unknown; give mode=, one "
                f"of {', '.join(MODES)}"
            )
        return "add" if stated is None else str(stated)
    require_mode(mode)
    if stated is not None and stated != mode:
        warn_of_other_use(vector, f"mode {stated!r}", f"mode {mode!r}", 4)
    return mode


def resolve_scope(
    vector: SteeringVector, positions: Positions | None, device: torch.device
) -> Scope | None:
    """Return the scope of `positions`, or if it is None of the vector's stated positions.

    Returns None for all tokens, also where neither gives positions.

    Raises:
        TypeError, ValueError: as `scope_of`, and where the vector states unknown positions.
    """
    stated = vector.metadata.get("positions")
    if positions is None:
        return None if stated is None else _stated_scope(vector.name, stated)
    scope = scope_of(positions, device)
    if stated is not None and not _states(stated, scope):
        chosen = None
        if isinstance(positions, (str, range, slice)):
            chosen = positions_to_text(positions)
        elif isinstance(positions, Scope):
            chosen = str(positions)
        chosen = chosen or type(positions).__name__
        warn_of_other_use(vector, f"positions {stated!r}", f"positions {chosen!r}", 4)
    return scope


def resolve_layers(vector: SteeringVector, layers: Layers) -> Layers:
    """Return `layers`, or if it is None the vector's stated layers; None for all that it has.

    Raises:
        ValueError: as `stated_layers`.
    """
    return stated_layers(vector) if layers is None else layers


def stated_layers(vector: SteeringVector) -> list[int] | None:
    """Return the layers that the vector states to be steered; None if it states none.

    Raises:
        ValueError: the vector states what are not layers of its own.
    """
    stated = vector.metadata.get("layers")
    if stated is None:
        return None
    if (
        not isinstance(stated, list)
        or not stated
        or not all(type(layer) is int and layer in vector.directions for layer in stated)
    ):
        raise ValueError(
            f"vector {vector.name!r} states layers {stated!r}, which are not a list of its own; "
            f"give layers=, some of {vector.layers}"
        )
    return [*stated]


def resolve_caps(
    vector: SteeringVector, floor: Bound, ceiling: Bound, layers: Layers, num_layers: int
) -> tuple[dict[int, float], dict[int, Bounds]]:
    """Return the factor and the bounds per layer to cap; without bounds, what the vector states.

    Without `layers` those that the bounds name, or else as `resolve_layers`.

    Raises:
        TypeError, ValueError: as `layer_factors` and `bounds_by_layer`, and where nothing gives
            bounds.
    """
    given = floor is not None or ceiling is not None
    if not given:
        floor, ceiling = _stated_bounds(vector)
    named, stated = bounded_layers(floor, ceiling), stated_layers(vector)
    if layers is None:
        layers = (named or stated) if given else (stated or named)
    factors = layer_factors(vector, layers, num_layers)
    if not given:
        floor, ceiling = _at(floor, factors), _at(ceiling, factors)
    return factors, bounds_by_layer(floor, ceiling, factors)


def _stated_bounds(vector: SteeringVector) -> tuple[Bound, Bound]:
    """Return the bounds that a vector states of layers that it has."""
    what = f"vector {vector.name!r} states"
    found = [
        _at(bounds_from_json(vector.metadata.get(key), f"{what} a {key}, which"), vector.directions)
        for key in ("floor", "ceiling")
    ]
    if found == [None, None]:
        raise ValueError(
            f"a cap on {vector.name!r} needs a bound, and it states none of its layers: "
            "patched.cap(vector, ceiling=..., floor=...)"
        )
    return found[0], found[1]


def _at(bound: Bound, layers: Container[int]) -> Bound:
    if isinstance(bound, Mapping):
        return {layer: own for layer, own in bound.items() if layer in layers} or None
    return bound


def resolve_coefficient(vector: SteeringVector, coefficient: float | None) -> float:
    """Return `coefficient`, or if it is None the vector's stated one, or 1.0.

    Raises:
        ValueError: the vector states what is not a number; whether it is finite is not checked.
    """
    stated = vector.metadata.get("coefficient")
    if coefficient is not None or stated is None:
        return 1.0 if coefficient is None else coefficient
    if isinstance(stated, bool) or not isinstance(stated, (int, float)):
        raise ValueError(
            f"vector {vector.name!r} states coefficient {stated!r}, which is not a number; give "
            "coefficient="
        )
    return stated


def positions_in_texts(vector: SteeringVector) -> Positions | None:
    """Return the `positions=` for measuring on whole texts: "all" for a vector of generated tokens.

    A text that is given has no generated tokens, so nothing would be steered.
    """
    return "all" if vector.metadata.get("positions") == "generated" else None


def _stated_scope(name: str, stated: object) -> Scope | None:
    try:
        return scope_of_range(parse_positions(stated))
    except ValueError:
        names = ", ".join(map(repr, NAMED_POSITIONS))
        raise ValueError(
            f"vector {name!r} states positions {stated!r}, which are unknown; give positions=, or "
            f"state one of {names}, or a range such as '-3:'"
        ) from None


def _states(stated: object, scope: Scope | None) -> bool:
    try:
        return scope_of_range(parse_positions(stated)) == scope
    except ValueError:
        return False
