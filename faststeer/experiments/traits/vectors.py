"""The traits' vectors, the same without what they share, and random directions beside them."""

from __future__ import annotations

from collections.abc import Mapping
from zlib import crc32

import torch
from torch import Tensor

from faststeer.experiments.traits.ways import ORTHOGONAL
from faststeer.vectors.random import random_like
from faststeer.vectors.steering_vector import SteeringVector


def orthogonalised(vectors: Mapping[str, SteeringVector]) -> list[SteeringVector]:
    """Return the vectors nearest to these that are orthogonal at every layer, of the same norms.

    Symmetric orthogonalisation (Löwdin 1950): no vector comes first, and of all orthogonal sets it
    is the one whose unit vectors differ least from the given ones.

    Raises:
        ValueError: vectors that are not linearly independent at a layer.
    """
    names = list(vectors)
    layers = vectors[names[0]].layers
    found: dict[str, dict[int, Tensor]] = {name: {} for name in names}
    for layer in layers:
        own = torch.stack([vectors[name].directions[layer].double() for name in names])
        norms = own.norm(dim=1, keepdim=True)
        left, scales, right = torch.linalg.svd(own / norms, full_matrices=False)
        if scales[-1] < 1e-6 * scales[0]:
            raise ValueError(
                f"the vectors of {', '.join(names)} are linearly dependent at layer {layer}"
            )
        for name, direction in zip(names, norms * (left @ right), strict=True):
            found[name][layer] = direction.float()
    return [SteeringVector(name + ORTHOGONAL, own) for name, own in found.items()]


def random_directions(vector: SteeringVector, layer: int, count: int) -> list[SteeringVector]:
    """Return `count` random directions of a vector's norm at a layer, equal in every run."""
    own = vector.select([layer])
    first = crc32(vector.name.encode()) % 100_000
    return [
        SteeringVector(
            f"{vector.name}, random {number}", random_like(own, first + number).directions
        )
        for number in range(count)
    ]
