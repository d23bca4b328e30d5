"""Directions by layer: checking, whitening and adding them."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from typing import Any

import torch
from torch import Tensor


def checked_directions(name: str, directions: Mapping[int, Tensor]) -> dict[int, Tensor]:
    """Return copies in float32 on the CPU, layers ascending.

    Args:
        name: the vector's name, for messages.
        directions: 0-based layer -> direction ``[H]``.

    Raises:
        TypeError: a layer that is not an int, or a direction that is not a tensor.
        ValueError: no directions, a negative layer, or directions that are not 1-D, of unequal size
            or not finite in float32.
    """
    if not directions:
        raise ValueError(f"vector {name!r} has no directions; give {{layer: tensor}}")
    own = {}
    for layer, direction in directions.items():
        own[int(layer)] = _checked(f"vector {name!r}, layer {layer!r}", layer, direction)
    sizes = sorted({direction.numel() for direction in own.values()})
    if len(sizes) > 1:
        raise ValueError(f"vector {name!r} has directions of sizes {sizes}; expected one")
    return {layer: own[layer] for layer in sorted(own)}


def whiten(
    name: str, directions: Mapping[int, Tensor], variances: Mapping[int, Tensor]
) -> dict[int, Tensor]:
    """Return each coordinate divided by its standard deviation, in float64.

    Raises:
        ValueError: a layer without variances ``[H]``, or one that is not above 0.
    """
    whitened = {}
    for layer, direction in directions.items():
        variance = variances.get(layer)
        if variance is None or variance.shape != direction.shape or not (variance > 0).all():
            raise ValueError(
                f"vector {name!r}, layer {layer}: expected {direction.numel()} variances above 0"
            )
        whitened[layer] = direction.double() / variance.cpu().double().sqrt()
    return whitened


def add(one: Mapping[int, Tensor], other: Mapping[int, Tensor], factor: float) -> dict[int, Tensor]:
    """Return ``one + factor * other`` per layer; a layer that one of them lacks is zero there."""
    total = dict(one)
    for layer, direction in other.items():
        mine = total.get(layer)
        total[layer] = factor * direction if mine is None else mine + factor * direction
    return total


def _checked(where: str, layer: Any, direction: Any) -> Tensor:
    if not isinstance(layer, Integral):  # numpy has integer types of its own
        raise TypeError(f"{where}: a layer is an int, not a {type(layer).__name__}")
    if not isinstance(direction, Tensor):
        raise TypeError(f"{where}: got a {type(direction).__name__}; expected a tensor [H]")
    if layer < 0:
        raise ValueError(f"{where}: layers count from 0")
    if direction.dim() != 1 or direction.numel() == 0:
        raise ValueError(f"{where}: shape {tuple(direction.shape)}; expected a direction [H]")
    own: Tensor = direction.detach().to("cpu", torch.float32, copy=True).contiguous()
    if not own.isfinite().all():
        bad = int((~own.isfinite()).sum())
        raise ValueError(f"{where}: {bad} of {own.numel()} values are NaN or infinite")
    return own
