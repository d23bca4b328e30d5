"""Which block's output a direction is added to: the place that every other format means."""

from __future__ import annotations

from torch import Tensor

from faststeer.vectors.stated_use import require_addition
from faststeer.vectors.steering_vector import SteeringVector


def block_outputs(vector: SteeringVector, kind: str) -> dict[int, Tensor]:
    """0-based block -> the direction ``[H]`` to add to its output.

    ``resid_pre`` of layer L is ``resid_post`` of layer L-1: the same number in the stream.

    Raises:
        ValueError: `kind`, a format, has no place for the vector's site, or the vector states that
            it is not to be added.
    """
    require_addition(vector, kind)
    if vector.site == "resid_post":
        return dict(vector.directions)
    if vector.site == "resid_pre" and 0 not in vector.directions:
        return {layer - 1: direction for layer, direction in vector.directions.items()}
    place = "the embedding" if vector.site == "resid_pre" else "the stream after attention"
    raise ValueError(
        f"vector {vector.name!r} is for {place} ({vector.site}); {kind} steers only blocks' outputs"
    )
