"""The same steering by each library's own API, on separate modules that share weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from faststeer import SteeringVector, patch
from faststeer.diagnostics.bench.hook_baselines import twin

STEERING_VECTORS, REPENG, FASTSTEER = "steering-vectors", "repeng", "faststeer"

Steer = Callable[[nn.Module, SteeringVector, float], nn.Module]


def with_steering_vectors(
    model: nn.Module, vector: SteeringVector, coefficient: float
) -> nn.Module:
    steered = twin(model)
    theirs = vector.to_object("steering-vectors").to(next(model.parameters()))
    theirs.patch_activations(steered, multiplier=coefficient)
    return steered


def with_repeng(model: nn.Module, vector: SteeringVector, coefficient: float) -> nn.Module:
    from repeng import ControlModel

    steered: Any = ControlModel(twin(model), vector.layers)
    steered.set_control(vector.to_object("repeng"), coefficient)
    return steered


def with_faststeer(model: nn.Module, vector: SteeringVector, coefficient: float) -> nn.Module:
    steered = twin(model)
    patch(steered).steer(vector, coefficient)
    return steered


LIBRARIES: dict[str, Steer] = {
    STEERING_VECTORS: with_steering_vectors,
    REPENG: with_repeng,
    FASTSTEER: with_faststeer,
}
