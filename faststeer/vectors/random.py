"""Random vectors, as controls for the effect of a vector's direction."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from faststeer.vectors.steering_vector import SteeringVector


def random_vector(
    name: str, norms: Mapping[int, float], hidden_size: int, seed: int, site: str = "resid_post"
) -> SteeringVector:
    """Return a vector of random directions with a given Euclidean norm per layer."""
    draw = torch.Generator().manual_seed(seed)
    directions = {}
    for layer, norm in norms.items():
        direction = torch.randn(hidden_size, generator=draw)
        directions[layer] = direction * (norm / direction.norm())
    return SteeringVector(name, directions, site)


def random_like(vector: SteeringVector, seed: int) -> SteeringVector:
    """Return a random vector with the norms of `vector`, to measure what its norms alone do."""
    name = f"random {vector.name}"
    return random_vector(name, vector.norms(), vector.hidden_size, seed, vector.site)
