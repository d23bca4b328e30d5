"""The arguments of `tune`, checked and arranged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from faststeer.data.shipped import prose_texts
from faststeer.diagnostics.tuning.sources import Source
from faststeer.patching.patched import Patched
from faststeer.vectors.arguments import Layers
from faststeer.vectors.steering_vector import SteeringVector

_TEXTS = (6, 12)  # neutral texts by default: to choose on, and to measure on
_DEPTHS = (0.2, 0.92)  # of the layers that are tried by default


def by_name(
    items: Source | Mapping[str, Source],
    vector: SteeringVector | Mapping[str, SteeringVector] | None,
) -> tuple[dict[str, Source], dict[str, SteeringVector]]:
    """Return the items and the vectors by name; one vector has its own name."""
    if isinstance(items, Mapping):
        vectors = {} if vector is None else vector
        if isinstance(vectors, SteeringVector) or not items:
            raise TypeError("items are a mapping, so vector= is expected to be {name: vector}")
        if vectors and vectors.keys() != items.keys():
            raise ValueError(
                f"items are named {list(items)} and vectors {list(vectors)}; expected the same"
            )
        for name, own in vectors.items():
            if not isinstance(own, SteeringVector):
                raise TypeError(
                    f"vector {name!r} is a {type(own).__name__}; expected a SteeringVector"
                )
        return dict(items), {name: replace(own, name=name) for name, own in vectors.items()}
    if not (vector is None or isinstance(vector, SteeringVector)):
        raise TypeError(
            f"vector is a {type(vector).__name__}; expected a SteeringVector, or a mapping where "
            "items are one"
        )
    name = vector.name if vector is not None else getattr(items, "name", "vector")
    name = name if isinstance(name, str) else "vector"
    return {name: items}, {} if vector is None else {name: vector}


def neutral_parts(texts: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """Return the texts to choose on and those to measure on."""
    if texts is None:
        every, (first, second) = prose_texts(), _TEXTS
        return every[:first], every[first : first + second]
    given = [] if isinstance(texts, str) else list(texts)
    if len(given) < 4:
        got = "a text" if isinstance(texts, str) else f"{len(given)} texts"
        raise ValueError(f"texts are {got}; at least 4 are needed")
    return given[::3], [text for n, text in enumerate(given) if n % 3]


def require_addition(vector: SteeringVector) -> None:
    """Raise ValueError for a vector that states another mode than "add"."""
    mode = vector.metadata.get("mode")
    if mode not in (None, "add"):
        raise ValueError(
            f"vector {vector.name!r} states mode {mode!r}; tune finds coefficients of additions "
            "(faststeer.diagnostics.calibrate takes every mode)"
        )


def require_steerable(patched: Patched) -> None:
    """Raise ValueError where steering is disabled, or where settings would not replace it."""
    plan = patched.plan
    if plan.disable_depth:
        raise ValueError("nothing steers within patched.off(); tune outside of it")
    if plan.rows:
        raise ValueError("tune measures rows of its own; call it outside of patched.rows()")
    if plan.learned:
        raise ValueError(
            f"{list(plan.learned)} of patched.learn() steer whatever is measured; remove() them "
            "first, and tune with their `vector`"
        )


def candidate_layers(vector: SteeringVector, layers: Layers, num_layers: int) -> list[int]:
    """Return the layers that are tried."""
    if layers is None and len(vector.layers) > 1:
        low, high = (share * num_layers for share in _DEPTHS)
        kept = [layer for layer in vector.layers if layer < num_layers]
        return [layer for layer in kept if low <= layer <= high] or kept or vector.layers
    if layers is None or layers == "all":
        return vector.layers
    if isinstance(layers, (str, Mapping)):
        raise ValueError(f"layers is {layers!r}; expected 'all', a number or several")
    return vector.select(layers).layers
