"""Cosine similarity between the directions of a vector's layers, and between vectors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from faststeer.vectors.arguments import require_several
from faststeer.vectors.steering_vector import SteeringVector


def cosines(vector: SteeringVector) -> Tensor:
    """Return the cosines between the directions of all layers, ``[L, L]`` float64.

    Rows and columns are in the order of `vector.layers`; NaN where a direction is zero.
    """
    return _cosines(list(vector.directions.values()))


def cosines_between(vectors: Sequence[SteeringVector]) -> dict[int, Tensor]:
    """Return the cosines between N vectors, ``[N, N]`` float64, per layer that all of them have.

    Near 1 or -1, two behaviours are steered by nearly the same direction; random directions in H
    dimensions have a cosine of about ``1 / sqrt(H)``. NaN where a direction is zero.

    Raises:
        ValueError: no vectors, vectors of different hidden sizes or sites, or without a common
            layer.
    """
    require_several(vectors, "vectors")
    if not vectors:
        raise ValueError("got no vectors; at least one is needed")
    first = vectors[0]
    for other in vectors[1:]:
        if other.site != first.site or other.hidden_size != first.hidden_size:
            raise ValueError(
                f"{first.name!r} ({first.site}, hidden size {first.hidden_size}) and "
                f"{other.name!r} ({other.site}, {other.hidden_size}) cannot be compared: both must "
                "be equal"
            )
    shared = [layer for layer in first.layers if all(layer in v.directions for v in vectors)]
    if not shared:
        layers = "; ".join(f"{vector.name!r} has {vector.layers}" for vector in vectors)
        raise ValueError(f"the vectors share no layer: {layers}")
    return {layer: _cosines([v.directions[layer] for v in vectors]) for layer in shared}


def _cosines(directions: Sequence[Tensor]) -> Tensor:
    rows = torch.stack(list(directions)).double()
    unit = rows / rows.norm(dim=1, keepdim=True)
    found: Tensor = (unit @ unit.T).clamp(-1, 1)
    return found
