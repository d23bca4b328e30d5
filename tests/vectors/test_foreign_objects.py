"""Objects of steering-vectors and repeng, by stand-ins; `make parity` has the real ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from faststeer import SteeringVector


@dataclass
class TheirSteeringVector:
    """Stand-in for the class of steering-vectors 0.12."""

    layer_activations: dict[int, torch.Tensor]
    layer_type: str = "decoder_block"


@dataclass
class TheirControlVector:
    """Stand-in for the class of repeng 0.4."""

    model_type: str
    directions: dict[int, np.ndarray]


@pytest.mark.parametrize(
    ("layer_type", "site"),
    [("decoder_block", "resid_post"), ("self_attn", "resid_mid"), ("mlp", "resid_post")],
)
def test_a_steering_vectors_object_steers_the_site_of_its_layer_type(
    layer_type: str, site: str
) -> None:
    theirs = TheirSteeringVector({5: torch.ones(1, 1, 3)}, layer_type)
    vector = SteeringVector.from_object(theirs, "v")
    assert (vector.name, vector.site, vector.layers) == ("v", site, [5])
    assert vector.directions[5].tolist() == [1.0, 1.0, 1.0]


def test_a_repeng_object_is_taken_at_its_own_layers() -> None:
    theirs = TheirControlVector("mistral", {7: np.float32([1, 2]), 3: np.float16([3, 4])})
    vector = SteeringVector.from_object(theirs)
    assert {layer: d.tolist() for layer, d in vector.directions.items()} == {3: [3, 4], 7: [1, 2]}
    assert (vector.site, vector.metadata) == ("resid_post", {"model_type": "mistral"})
    theirs.directions[7][0] = 9
    assert vector.directions[7].tolist() == [1, 2]  # a copy


@dataclass
class OfIBM(TheirControlVector):
    """Stand-in for the class of activation-steering: added at the input of its layers."""

    explained_variances: dict[int, float]


@dataclass
class OfEasySteer(TheirControlVector):
    component: str | None


@dataclass
class OfAISteer360(TheirControlVector):
    num_heads: int | None = None


def test_an_object_of_ibm_s_is_added_at_the_input_of_its_layers() -> None:
    vector = SteeringVector.from_object(OfIBM("llama", {7: np.float32([1, 2])}, {7: 0.5}))
    assert (vector.site, vector.layers) == ("resid_pre", [7])
    assert vector.directions[7].tolist() == [1, 2]


def test_objects_like_repeng_s_that_mean_another_site_are_refused() -> None:
    directions = {7: np.float32([1, 2])}
    own = SteeringVector.from_object(OfEasySteer("llama", directions, "hidden_states"))
    assert (own.site, own.directions[7].tolist()) == ("resid_post", [1, 2])
    with pytest.raises(ValueError, match="component 'attention_heads' is not the residual stream"):
        SteeringVector.from_object(OfEasySteer("llama", directions, "attention_heads"))
    with pytest.raises(ValueError, match="an AISteer360 vector does not state where"):
        SteeringVector.from_object(OfAISteer360("llama", directions))


def test_several_rows_per_layer_are_refused() -> None:
    with pytest.raises(ValueError, match=r"layer 5: shape \(2, 3\) has several rows"):
        SteeringVector.from_object(TheirSteeringVector({5: torch.ones(2, 3)}))


def test_objects_without_a_site_and_unknown_objects_are_refused() -> None:
    theirs = TheirSteeringVector({5: torch.ones(3)}, "input_layernorm")
    with pytest.raises(ValueError, match="'input_layernorm' is no place of the residual stream"):
        SteeringVector.from_object(theirs)
    with pytest.raises(ValueError, match="layers count from 0"):
        SteeringVector.from_object(TheirSteeringVector({-1: torch.ones(3)}))
    with pytest.raises(TypeError, match="got a dict; expected steering-vectors' SteeringVector"):
        SteeringVector.from_object({5: torch.ones(3)})
    with pytest.raises(ValueError, match="package 'caa' is unknown; expected one of steering-vec"):
        SteeringVector("v", {1: torch.ones(2)}).to_object("caa")
