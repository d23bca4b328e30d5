"""A vector's stated layers and coefficient are what it steers with where neither is given."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from faststeer import SteeringVector, bake, patch

THREE = SteeringVector("v", {n: torch.linspace(-1, n + 1, 64) for n in (0, 1, 2)})
IDS = torch.arange(1, 9)[None]


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(IDS).logits
    return found


@pytest.mark.parametrize(
    ("layers", "coefficient", "expected"),
    [
        (1, None, {1: 1.0}),
        ([2, 0], -1.5, {0: -1.5, 2: -1.5}),
        (None, 0.5, {0: 0.5, 1: 0.5, 2: 0.5}),
    ],
)
def test_they_are_kept_in_a_file_and_are_the_default_of_steer_and_learn(
    layers, coefficient, expected, tiny_model, tmp_path
) -> None:
    THREE.for_use(layers=layers, coefficient=coefficient).save(tmp_path / "v.safetensors")
    own = SteeringVector.load(tmp_path / "v.safetensors")
    with patch(tiny_model) as patched:
        handle = patched.steer(own)
        steered = logits(tiny_model)
        assert patched.plan.interventions["v"].by_layer() == expected
        given = patched.steer(own, 4.0, layers=[0, 1])
        assert (given.layers, given.coefficient) == ([0, 1], 4.0)
        patched.clear()
        patched.learn(own)
        torch.testing.assert_close(logits(tiny_model), steered, rtol=1e-4, atol=1e-5)
    assert handle.layers == sorted(expected)


def test_bake_writes_what_the_vector_states(make_tiny) -> None:
    own = THREE.for_use(layers=1, coefficient=3.0)
    baked, expected = (make_tiny(), make_tiny())
    torch.testing.assert_close(
        logits(bake(baked, own)), logits(bake(expected, THREE, 3.0, 1)), rtol=0, atol=0
    )
    assert baked.config.faststeer_baked[0]["layers"] == {"1": 3.0}


def test_a_selection_of_other_layers_replaces_the_statement() -> None:
    own = THREE.for_use(layers=[0, 1], coefficient=2.0)
    assert own.select([0, 1]).metadata["layers"] == [0, 1]
    for other in (own.select([0, 2]), own.at(1), own.at(1, to=5)):
        assert other.metadata == {"coefficient": 2.0}


@pytest.mark.parametrize("use", [{"layers": 1}, {"coefficient": 2.0}])
def test_vectors_that_state_different_ones_are_not_combined(use) -> None:
    with pytest.raises(ValueError, match="they cannot be combined; steer with each"):
        THREE.for_use(**use) + THREE
    assert (THREE.for_use(**use) + THREE.for_use(**use)).metadata == THREE.for_use(**use).metadata


@pytest.mark.parametrize("layers", [30, [5], [], ["1"], [True], "1"])
def test_stated_layers_that_are_not_the_vector_s_are_refused_until_others_are_given(
    layers, tiny_model
) -> None:
    own = SteeringVector("v", THREE.directions, metadata={"layers": layers})
    with patch(tiny_model) as patched:
        with pytest.raises(ValueError, match="which are not a list of its own; give layers="):
            patched.steer(own)
        assert not patched.handles
        assert patched.steer(own, layers=2).layers == [2]


@pytest.mark.parametrize(
    ("coefficient", "message"),
    [("much", "which is not a number"), (True, "not a number"), (float("inf"), "finite number")],
)
def test_a_stated_coefficient_that_is_no_finite_number_is_refused(
    coefficient, message, tiny_model
) -> None:
    own = SteeringVector("v", THREE.directions, metadata={"coefficient": coefficient})
    with patch(tiny_model) as patched, pytest.raises(ValueError, match=message):
        patched.steer(own)


def test_a_use_that_the_vector_cannot_have_is_not_stated() -> None:
    with pytest.raises(ValueError, match="no direction for layer 7"):
        THREE.for_use(layers=7)
    with pytest.raises(ValueError, match="coefficient is nan; expected a finite number"):
        THREE.for_use(coefficient=float("nan"))
