"""Vectors that are steered without a name: at other layers they act besides, else they replace."""

import warnings

import pytest
import torch
from patched_tiny import IDS, close, logits
from plain_hooks import hooked, random_vector

import faststeer
from faststeer import FaststeerWarning

V = random_vector("v", range(4))


def with_hooks(model, steering):
    with hooked(model.model, steering):
        return logits(model)


def test_a_vector_steered_twice_at_different_layers_acts_at_both(tiny_model) -> None:
    both = with_hooks(tiny_model, [(V, 2.0, [1]), (V, -3.0, [3])])
    one = with_hooks(tiny_model, [(V, -3.0, [3])])
    with faststeer.patch(tiny_model) as patched, warnings.catch_warnings():
        warnings.simplefilter("error", FaststeerWarning)
        first = patched.steer(V, 2.0, layers=1)
        second = patched.steer(V, -3.0, layers=3)
        assert close(logits(tiny_model), both)
        assert not close(both, one)
        assert (first.name, second.name, first.active) == ("v", "v-2", True)
        assert patched["v-2"].layers == [3]
        first.remove()
        assert close(logits(tiny_model), one)


def test_a_repeated_call_changes_the_coefficient_of_the_layers_that_it_names(tiny_model) -> None:
    expected = with_hooks(tiny_model, [(V, 2.0, [1]), (V, 0.5, [3])])
    with faststeer.patch(tiny_model) as patched, warnings.catch_warnings():
        warnings.simplefilter("error", FaststeerWarning)
        patched.steer(V, 2.0, layers=1)
        patched.steer(V, -3.0, layers=3)
        patched["v"].remove()  # its name is free now, but the call below is about "v-2"
        assert patched.steer(V, 0.5, layers=3).name == "v-2"
        assert patched.steer(V, 2.0, layers=1).name == "v"
        assert close(logits(tiny_model), expected)


@pytest.mark.parametrize(
    ("call", "where"),
    [
        (lambda own: own.steer(V, layers=[1, 2]), "'v' at layers 1–2"),
        (lambda own: own.steer(V, layers=1, mode="project"), "'v' at layer 1"),
        (lambda own: own.steer(V, layers=1, positions="prompt"), "'v' at layer 1"),
        (lambda own: own.steer(V, layers=1, keep_norm=True), "'v' at layer 1"),
        (lambda own: own.steer(random_vector("v", [1], seed=3)), "'v' at layer 1"),
        (lambda own: own.ablate(V, layer=1), "'v' at layers 0–3"),
    ],
)
def test_a_call_that_replaces_another_use_of_the_vector_reports_it(tiny_model, call, where) -> None:
    with faststeer.patch(tiny_model) as patched:
        first = patched.steer(V, layers=1)
        message = f"{where} replaces 'v' at layer 1, which no longer steers: .* another name="
        with pytest.warns(FaststeerWarning, match=message) as caught:
            call(patched)
        assert {one.filename for one in caught} == {__file__}
        assert not first.active
        assert len(patched.handles) == 1


def test_a_repeated_name_that_is_given_replaces_without_a_warning(tiny_model) -> None:
    with faststeer.patch(tiny_model) as patched, warnings.catch_warnings():
        warnings.simplefilter("error", FaststeerWarning)
        patched.steer(V, layers=1)
        handle = patched.steer(V, layers=3, mode="project", name="v")
        assert [own.layers for own in patched.handles] == [[3]]
        assert handle.name == "v"


def test_a_call_over_several_handles_of_the_vector_is_refused(tiny_model) -> None:
    with faststeer.patch(tiny_model) as patched:
        patched.steer(V, layers=1)
        patched.steer(V, layers=3)
        steered = logits(tiny_model)
        with pytest.raises(ValueError, match="steers some of these layers already, as v and v-2"):
            patched.steer(V)
        assert torch.equal(logits(tiny_model), steered)


def test_another_vector_whose_name_has_a_number_is_not_replaced(tiny_model) -> None:
    with faststeer.patch(tiny_model) as patched:
        patched.steer(random_vector("v-2", [1], seed=4))
        patched.steer(V, layers=1)
        assert patched.steer(V, layers=2).name == "v-3"
        assert [own.name for own in patched.handles] == ["v-2", "v", "v-3"]


def test_a_learned_vector_at_other_layers_acts_besides(tiny_model) -> None:
    expected = with_hooks(tiny_model, [(V, 2.0, [1]), (V, -3.0, [3])])
    with faststeer.patch(tiny_model) as patched:
        patched.learn(V, 5.0, layers=1)
        patched.learn(V, 2.0, layers=1)  # replaces
        second = patched.learn(V, -3.0, layers=3)
        with torch.no_grad():
            assert close(tiny_model(IDS, use_cache=False).logits, expected)
        assert second.name == "v-2"
        with pytest.warns(
            FaststeerWarning, match="'v' at layers 0–1 replaces 'v' at layer 1"
        ) as own:
            patched.learn(V, layers=[0, 1])
        assert own[0].filename == __file__
