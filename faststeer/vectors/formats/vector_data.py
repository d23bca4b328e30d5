"""The content of a vector's file, and its directions as additions to blocks' outputs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from faststeer.vectors.stated_use import require_addition


class VectorData(NamedTuple):
    """The fields of a `SteeringVector`, not yet checked."""

    name: str
    directions: Mapping[int, Tensor]
    site: str
    metadata: Mapping[str, Any]


def block_outputs(vector: VectorData, kind: str, stacklevel: int) -> dict[int, Tensor]:
    """Return 0-based block -> the direction ``[H]`` to add to its output.

    ``resid_pre`` of layer L is ``resid_post`` of layer L-1: the same tensor in the stream.

    Args:
        vector: what is to be written.
        kind: the format or package, for messages.
        stacklevel: as of `warnings.warn`, for positions that the format cannot hold.

    Raises:
        ValueError: the format has no place for the vector's site, or the vector states that it is
            not to be added.
    """
    require_addition(vector, kind, stacklevel + 1)
    if vector.site == "resid_post":
        return dict(vector.directions)
    if vector.site == "resid_pre" and 0 not in vector.directions:
        return {layer - 1: direction for layer, direction in vector.directions.items()}
    place = "the embedding" if vector.site == "resid_pre" else "the stream after attention"
    raise ValueError(
        f"vector {vector.name!r} is for {place} ({vector.site}); {kind} steers only blocks' outputs"
    )


def metadata_from_json(text: str, key: str) -> dict[str, Any]:
    """Parse the metadata that a file holds under `key`. Raises ValueError unless an object."""
    try:
        metadata = json.loads(text)
    except RecursionError as error:
        raise ValueError(f"{key}: {error}") from error
    if not isinstance(metadata, dict):
        raise ValueError(f"{key} is a {type(metadata).__name__}, expected an object")
    return metadata
