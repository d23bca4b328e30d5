"""How alike vectors are: a table of their cosines."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from faststeer.experiments.result import Table
from faststeer.vectors.steering_vector import SteeringVector


def cosines_at(vectors: Mapping[str, SteeringVector], layer: int) -> Table:
    """List the cosines between vectors at a layer, under the names that they are given by."""
    own = torch.stack([vector.directions[layer] for vector in vectors.values()])
    unit = torch.nn.functional.normalize(own.double(), dim=1)
    rows = [[name, *row] for name, row in zip(vectors, (unit @ unit.T).tolist(), strict=True)]
    return Table(f"Cosines between the vectors at layer {layer}", ["", *vectors], rows, 2)
