"""Terms: what a request asks for, checked in the process that answers it, in words."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from faststeer.steering.resolved_use import (
    resolve_caps,
    resolve_coefficient,
    resolve_layers,
    resolve_mode,
)
from faststeer.vectors.arguments import Layers, finite, layer_factors
from faststeer.vectors.bounds import LARGEST, bounds_from_json
from faststeer.vectors.position_range import NAMED_POSITIONS, PositionRange, parse_positions
from faststeer.vectors.sites import Site
from faststeer.vectors.steering_vector import SteeringVector
from faststeer.vllm.vector_store import VectorStore

_ELSEWHERE = {  # of `Patched.steer`, and why requests do not have it
    "when": "conditions compare the residual stream of a sequence or a token, which the engine's "
    "table of terms is not made from",
}
_KEYS = (
    "vector",
    "coefficient",
    "layers",
    "mode",
    "floor",
    "ceiling",
    "positions",
    "keep_norm",
)
_BOUNDS = ("floor", "ceiling")  # in the order of `Bounds`
_MOST_TERMS = 256  # of a request, before anything is computed from them

Wire = list[Any]  # a term as JSON and msgpack hold it
_Found = dict[str, tuple[tuple[int, float], ...]]  # by mode: coefficients by layer


@dataclass(frozen=True)
class Term:
    """One vector of a request.

    `digest`: the vector's content; `site`: its kind; `coefficients`: by layer, ascending; `mode`:
    as of `Patched.steer`, or of a cap "floor" or "ceiling", whose coefficients are the bounds;
    `positions`: None is all tokens.
    """

    digest: str
    site: str
    coefficients: tuple[tuple[int, float], ...]
    mode: str = "add"
    keep_norm: bool = False
    positions: PositionRange | None = None

    def to_wire(self) -> Wire:
        """Return the term as plain lists, for another process."""
        where = "all" if self.positions is None else str(self.positions)
        pairs = [list(pair) for pair in self.coefficients]
        return [self.digest, self.site, pairs, self.mode, self.keep_norm, where]

    @classmethod
    def from_wire(cls, wire: Wire) -> Term:
        """Return the term that `to_wire` wrote."""
        digest, site, pairs, mode, keep_norm, where = wire
        coefficients = tuple((layer, coefficient) for layer, coefficient in pairs)
        return cls(digest, site, coefficients, mode, keep_norm, parse_positions(where))

    def entries_at(self) -> dict[Site, int]:
        """Return how many entries of the table it takes at each of its sites."""
        count = (2 if self.mode == "clamp" else 1) + self.keep_norm
        return {Site.of(layer, self.site): count for layer, _ in self.coefficients}


def parse_terms(given: object, store: VectorStore) -> list[Term]:
    """Return the terms of a request.

    Args:
        given: a list of objects with ``vector`` and, where wanted, ``coefficient``, ``layers``,
            ``mode``, ``positions`` and ``keep_norm``, as `faststeer.Patched.steer` takes them, and
            ``floor`` and ``ceiling``, as `faststeer.Patched.cap` does; positions are a name or a
            range as text, "0:5" or "first(8)". Or the same as a JSON string. What is left out is
            what the vector states, as there.
        store: the vectors that may be named.

    Raises:
        ValueError: anything else, with the reason.
    """
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"it is not JSON: {error}") from None
    if not isinstance(given, Sequence) or isinstance(given, (str, bytes)):
        raise ValueError(
            f'it is a {type(given).__name__}; expected a list such as [{{"vector": "name"}}]'
        )
    if len(given) > _MOST_TERMS:
        raise ValueError(f"it has {len(given)} terms; at most {_MOST_TERMS} are read")
    terms = []
    for at, own in enumerate(given):
        try:
            terms += _terms(own, store)
        except (TypeError, ValueError) as error:
            raise ValueError(f"term {at}: {error}") from None
    return terms


def _terms(own: object, store: VectorStore) -> list[Term]:
    if not isinstance(own, Mapping):
        raise ValueError(f'it is a {type(own).__name__}; expected an object with "vector"')
    if refused := [key for key in _ELSEWHERE if key in own]:
        key = refused[0]
        raise ValueError(f"{key} is not available in requests: {_ELSEWHERE[key]}")
    if unknown := [str(key) for key in own if key not in _KEYS]:
        raise ValueError(f"{', '.join(unknown)} is unknown; expected some of {', '.join(_KEYS)}")
    vector = store.require(own.get("vector"))
    keep_norm = own.get("keep_norm", False)
    if not isinstance(keep_norm, bool):
        raise ValueError(f"keep_norm is {keep_norm!r}; expected true or false")
    mode = _text_or_none(own.get("mode"), "mode")
    if mode is None and any(own.get(bound) is not None for bound in _BOUNDS):
        mode = "cap"
    mode = resolve_mode(vector, mode)
    found = _caps(own, vector, store) if mode == "cap" else _other(own, vector, mode, store)
    where = _positions(own.get("positions"), vector)
    digest = store.digests[own["vector"]]
    return [
        Term(digest, vector.site, pairs, kind, keep_norm, where) for kind, pairs in found.items()
    ]


def _caps(own: Mapping[str, Any], vector: SteeringVector, store: VectorStore) -> _Found:
    """Return the floors and the ceilings of a cap, each a term whose coefficients they are."""
    floor, ceiling = (bounds_from_json(own.get(bound), bound) for bound in _BOUNDS)
    layers = _layers(own.get("layers"))
    factors, bounds = resolve_caps(vector, floor, ceiling, layers, store.num_layers)
    asked = own.get("coefficient")
    if asked is None and (floor, ceiling) != (None, None):
        asked = 1.0  # what the vector states is for the use that it states
    fraction = finite(resolve_coefficient(vector, asked), "coefficient")
    if any(fraction * factor != 1 for factor in factors.values()):
        raise ValueError("a cap moves all the way to its bounds here: leave the coefficient at 1")
    vector.select(sorted(factors)).normalized()
    found = {}
    for at, kind in enumerate(_BOUNDS):
        pairs = tuple((n, own[at]) for n, own in bounds.items() if math.isfinite(own[at]))
        if pairs:
            found[kind] = pairs
    return found


def _other(own: Mapping[str, Any], vector: SteeringVector, mode: str, store: VectorStore) -> _Found:
    if given := [bound for bound in _BOUNDS if own.get(bound) is not None]:
        raise ValueError(f"mode {mode!r} has no {' or '.join(given)}")
    factors = layer_factors(
        vector, resolve_layers(vector, _layers(own.get("layers"))), store.num_layers
    )
    coefficient = finite(resolve_coefficient(vector, own.get("coefficient")), "coefficient")
    acting = vector if mode == "add" else vector.select(sorted(factors)).normalized()
    coefficients = []
    for layer in sorted(factors):
        product = finite(coefficient * factors[layer], f"coefficient at layer {layer}")
        largest = abs(product) * max(1.0, float(acting.directions[layer].abs().max()))
        if largest > LARGEST:
            raise ValueError(f"{product:g} times the vector is more than float32 can hold")
        coefficients.append((layer, product))
    return {mode: tuple(coefficients)}


def _text_or_none(value: object, what: str) -> str | None:
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{what} is a {type(value).__name__}; expected a string")
    return value


def _layers(given: object) -> Layers:
    if isinstance(given, Mapping):  # whose keys are strings in JSON
        return {_layer(key): factor for key, factor in given.items()}
    if isinstance(given, Sequence) and not isinstance(given, str):
        return [_layer(own) for own in given]
    return None if given is None else given if given == "all" else _layer(given)


def _layer(given: object) -> int:
    if isinstance(given, str) and given.isascii() and given.isdigit() and len(given) < 9:
        return int(given)
    if type(given) is not int:
        raise ValueError(f"layers has {given!r}; expected numbers of layers")
    return given


def _positions(given: object, vector: SteeringVector) -> PositionRange | None:
    stated = given if given is not None else vector.metadata.get("positions", "all")
    try:
        return parse_positions(stated)
    except ValueError:
        names = ", ".join(map(repr, NAMED_POSITIONS))
        raise ValueError(
            f"positions is {stated!r}; expected one of {names}, 'first(8)' (generated tokens), or "
            "a range as text, such as '0:5' or '-3:0' (before the prompt's end); markers and token "
            "ids are not available in requests, whose tokens are chosen before they are written"
        ) from None
