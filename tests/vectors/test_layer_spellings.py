"""`layers` takes one or several layers and `layer` exactly one; the other spelling gets a hint."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import faststeer
from faststeer import SteeringVector, diagnostics, evaluate

V = SteeringVector("v", {1: torch.ones(64), 2: torch.full((64,), 2.0)})
SEVERAL = {
    "steer": lambda model, own, **how: own.steer(V, **how),
    "learn": lambda model, own, **how: own.learn(V, **how),
    "extract": lambda model, own, **how: faststeer.extract(model, None, [("a", "b")], **how),
    "activations": lambda model, own, **how: faststeer.activations(model, None, ["a"], **how),
    "capture": lambda model, own, **how: faststeer.capture(model, **how).__enter__(),
    "bake": lambda model, own, **how: faststeer.bake(model, V, **how),
    "calibrate": lambda model, own, **how: diagnostics.calibrate(model, None, V, 0.1, **how),
    "residual_norms": lambda model, own, **how: diagnostics.residual_norms(model, None, [], **how),
    "sweep": lambda model, own, **how: evaluate.sweep(
        model, None, None, [V], layers=1, coefficients=[1.0], output="swept", **how
    ),
}
ONE = {
    "ablate": lambda model, own, **how: own.ablate(V, **how),
    "when": lambda model, own, **how: faststeer.when(V, above=0.0, **how),
    "project_tokens": lambda model, own, **how: diagnostics.project_tokens(
        model, None, V, ["a"], **how
    ),
    "act_add": lambda model, own, **how: faststeer.act_add(model, None, "a", "b", layer=1, **how),
    "load": lambda model, own, **how: SteeringVector.load("v.safetensors", **how),
}


@pytest.mark.parametrize("name", [*SEVERAL, *ONE])
def test_the_other_spelling_is_refused_with_the_one_that_is_meant(
    tiny_model: Any, name: str
) -> None:
    given, known = ("layer", "layers") if name in SEVERAL else ("layers", "layer")
    message = rf"{name}\(\) got an unexpected .* '{given}'; did you mean {known}=\?"
    call = (SEVERAL | ONE)[name]
    with faststeer.patch(tiny_model) as patched:
        with pytest.raises(TypeError, match=message):
            call(tiny_model, patched, **{given: 1})
        assert not patched.handles


def test_another_unknown_keyword_is_refused_without_a_guess(tiny_model: Any) -> None:
    unknown = r"^steer\(\) got an .* argument 'strength'$"
    with faststeer.patch(tiny_model) as patched, pytest.raises(TypeError, match=unknown):
        patched.steer(V, strength=2.0)


def test_all_is_every_layer_of_the_vector(tiny_model: Any) -> None:
    with faststeer.patch(tiny_model) as patched:
        assert patched.steer(V, layers="all").layers == [1, 2]
        with pytest.raises(ValueError, match="layers is '1-2'; expected 'all', a number or sever"):
            patched.steer(V, layers="1-2")


def test_select_takes_one_layer_as_a_number() -> None:
    assert V.select(2).layers == [2]
