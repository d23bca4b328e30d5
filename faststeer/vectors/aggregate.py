"""Sums and mean norms of several vectors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from faststeer.vectors.steering_vector import SteeringVector


def sum_directions(vectors: Iterable[SteeringVector]) -> Mapping[int, Tensor]:
    """Return the sum of the vectors' directions per layer."""
    first, *others = vectors
    return sum(others, start=first).directions


def common_norms(vectors: Iterable[SteeringVector]) -> dict[int, float]:
    """Return the mean norm of several vectors at each layer that any of them has.

    For `SteeringVector.with_norms`.
    """
    norms: dict[int, list[float]] = {}
    for vector in vectors:
        for layer, norm in vector.norms().items():
            norms.setdefault(layer, []).append(norm)
    return {layer: sum(own) / len(own) for layer, own in norms.items()}
