"""Random directions to compare vectors with, and sums of vectors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from faststeer.vectors.steering_vector import SteeringVector


def random_vector(
    name: str, norms: Mapping[int, float], hidden_size: int, seed: int, site: str = "resid_post"
) -> SteeringVector:
    """A direction of the given Euclidean norm for each layer in `norms`, any way it may point."""
    draw = torch.Generator().manual_seed(seed)
    directions = {}
    for layer, norm in norms.items():
        direction = torch.randn(hidden_size, generator=draw)
        directions[layer] = direction * (norm / direction.norm())
    return SteeringVector(name, directions, site)


def random_like(vector: SteeringVector, seed: int) -> SteeringVector:
    """Directions of `vector`'s norms, any way they may point: what a dose alone does."""
    name = f"random {vector.name}"
    return random_vector(name, vector.norms(), vector.hidden_size, seed, vector.site)


def summed(vectors: Iterable[SteeringVector]) -> Mapping[int, Tensor]:
    """One direction a layer, the sum of theirs."""
    first, *others = vectors
    return sum(others, start=first).directions
