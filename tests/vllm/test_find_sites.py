"""Where the residual stream is added up, found by what runs; and the proof that it is steered."""

from __future__ import annotations

import warnings

import pytest
import torch
from served import make_store
from torch import nn
from toy_engine_model import HIDDEN, AddingLayer, Layer, MissingLayer, Model, Norm, OtherNorm

from faststeer import FaststeerWarning
from faststeer.vectors.sites import Site
from faststeer.vllm.configuration import Configuration
from faststeer.vllm.engine_steering import EngineSteering
from faststeer.vllm.find_sites import Found, decoder_layers, find_sites, missing_sites, watched
from faststeer.vllm.steered_modules import SteeredNorm, SteeredNormInPlace

MID, POST = "resid_mid", "resid_post"


def found_in(model: Model) -> Found:
    return find_sites(
        list(model.layers),
        lambda own: type(own) is Norm,
        watched(model),
        model.embed_tokens,
        HIDDEN,
        lambda: model.run(3),
    )


def test_every_sum_of_a_model_is_found_at_the_norm_that_adds_it() -> None:
    model = Model([Layer(), Layer(), Layer()])
    found = found_in(model)
    layers = [own for own in model.layers if isinstance(own, Layer)]
    assert found.norms == {
        Site(0, MID): layers[0].post_attention_layernorm,
        Site(0, POST): layers[1].input_layernorm,
        Site(1, MID): layers[1].post_attention_layernorm,
        Site(1, POST): layers[2].input_layernorm,
        Site(2, MID): layers[2].post_attention_layernorm,
        Site(2, POST): model.norm,
    }
    assert found.outputs == {Site(0, "resid_pre"): model.embed_tokens}
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


def test_a_stage_of_a_pipeline_has_the_sum_of_the_stage_before_and_not_its_own_last() -> None:
    layers = [Layer() for _ in range(4)]
    first, last = Model(layers, 0, 2), Model(layers, 2, 4)
    every = [Site(layer, POST) for layer in range(4)]
    early, late = found_in(first), found_in(last)
    assert [site for site in every if site in early.sites()] == [Site(0, POST)]
    assert [site for site in every if site in late.sites()] == every[1:]
    assert missing_sites(early, every, 3) == []
    assert missing_sites(late, every, 3) == []


def test_norms_of_another_kind_are_not_taken() -> None:
    model = Model([Layer(OtherNorm), Layer(), Layer()])
    found = found_in(model)
    assert Site(0, MID) not in found.norms
    assert missing_sites(found, [Site(0, MID), Site(0, POST)], 2) == [Site(0, MID)]
    with pytest.raises(ValueError, match=r"no sum of the residual stream .* resid_mid of layer 1"):
        steering(Model([Layer(), Layer(OtherNorm), Layer(), Layer()]))


def test_a_norm_of_something_else_than_what_the_layer_returned_is_not_taken() -> None:
    class Scaling(Layer):
        def forward(self, hidden, residual):
            """Return copies, as a model does that scales its residual between layers."""
            hidden, residual = super().forward(hidden, residual)
            return hidden, residual

    class ScaledModel(Model):
        def run(self, tokens):
            """Scale the residual of layer 0 on its way to layer 1."""
            hidden, residual = self.layers[0](self.embed_tokens(torch.arange(tokens)), None)
            hidden, residual = self.layers[1](hidden, residual * 2)
            return self.norm(hidden, residual)

    found = found_in(ScaledModel([Scaling(), Layer()]))
    assert Site(0, POST) not in found.sites()
    assert Site(1, POST) in found.sites()


def test_a_site_whose_table_is_another_sites_is_found() -> None:
    model = Model([Layer() for _ in range(4)])
    made = steering(model, in_place=True)
    steered = [site for site in made.sites if site in made.found.norms]
    one, other = (made.found.norms[site] for site in steered[:2])
    one.faststeer_table_number = other.faststeer_table_number
    name = f"{steered[0].kind} of layer {steered[0].layer}"
    with torch.inference_mode():
        with pytest.raises(RuntimeError, match=f"nothing steered {name}"):
            made.prove(model.run)
        with pytest.raises(RuntimeError, match=f"does not read what {name}"):
            made.prove_compiled(model.run)


def test_layers_that_add_themselves_are_steered_at_their_output() -> None:
    found = found_in(Model([AddingLayer(), AddingLayer()]))
    assert set(found.outputs) == {Site(0, "resid_pre"), Site(0, POST), Site(1, POST)}
    assert not found.norms


@pytest.mark.parametrize(
    ("returned", "reason"),
    [
        (lambda h: (h, h, h), "returns 3 results"),
        (lambda h: (h, h[:, :4]), "steers one residual stream"),
        (lambda h: torch.stack([h, h]), "returns 1 results of shapes"),
        (lambda h: torch.cat([h, h], 1), "several residual streams are not supported"),
        (lambda h: {"hidden": h}, "steers one residual stream"),
    ],
)
def test_streams_of_another_form_are_refused(returned, reason) -> None:
    class Odd(nn.Module):
        def forward(self, hidden, residual):
            """Return what is not one stream."""
            return returned(hidden)

    model = Model([Odd()])
    with pytest.raises(ValueError, match=reason):
        find_sites(
            list(model.layers),
            lambda own: True,
            watched(model),
            None,
            HIDDEN,
            lambda: model.layers[0](model.embed_tokens(torch.arange(3)), None),
        )


def test_the_list_of_layers_is_found_or_refused() -> None:
    model = Model([Layer(), Layer()])
    assert decoder_layers(model, 2)[0] == "layers"
    with pytest.raises(ValueError, match="one list of 3 decoder layers in Model and finds 0"):
        decoder_layers(model, 3)
    both = nn.ModuleDict({"one": Model([Layer()]), "other": Model([Layer()])})
    with pytest.raises(ValueError, match=r"finds 2: one\.layers, other\.layers"):
        decoder_layers(both, 1)


def steering(model: Model, in_place: bool = False) -> EngineSteering:
    store = make_store()
    found = found_in(model)
    made = EngineSteering(Configuration(None, terms=3), store, found, 32, torch.device("cpu"))
    made.attach(lambda norm: 0.0, lambda norm: in_place)
    return made


@pytest.mark.parametrize("in_place", [False, True])
def test_the_model_gives_the_same_while_nobody_is_steered_and_proves_that_it_steers(
    in_place: bool,
) -> None:
    model = Model([Layer() for _ in range(4)])
    with torch.inference_mode():
        before = model.run(12)
        made = steering(model, in_place)
        torch.testing.assert_close(model.run(12), before, atol=1e-5, rtol=1e-5)
        made.prove(model.run)
        made.prove_compiled(model.run)
        torch.testing.assert_close(model.run(12), before, atol=1e-5, rtol=1e-5)
    kind = SteeredNormInPlace if in_place else SteeredNorm
    swapped = [own for own in model.modules() if isinstance(own, kind)]
    assert len(swapped) == len(made.sites)
    assert {type(own).__name__ for own in swapped} == {"Norm"}
    assert not any("faststeer" in name for name in model.state_dict())


@pytest.mark.parametrize("in_place", [False, True])
def test_a_site_that_does_not_steer_is_found_by_both_proofs(in_place: bool) -> None:
    model = Model([Layer() for _ in range(4)])
    made = steering(model, in_place)
    site = Site(1, POST)
    norm = made.found.norms[site]
    norm.__class__ = Norm  # as if the swap had not taken
    with torch.inference_mode():
        with pytest.raises(RuntimeError, match="nothing steered resid_post of layer 1"):
            made.prove(model.run)
        with pytest.raises(RuntimeError, match="does not read what resid_post of layer 1"):
            made.prove_compiled(model.run)
    assert not made.slots.vectors[:, made.slots.probe_slot].any()
    assert (made.batch.index == -1).all()


def test_a_site_that_steers_the_wrong_token_is_found() -> None:
    model = Model([Layer() for _ in range(4)])
    made = steering(model)
    norm = made.found.norms[Site(1, POST)]
    norm.entries = lambda tokens: (
        type(norm).entries(norm, tokens + 1)[:1]
        + tuple(
            own.roll(1, 0)[:tokens] if own.dim() == 2 and at < 2 else own
            for at, own in enumerate(type(norm).entries(norm, tokens)[1:])
        )
    )
    with torch.inference_mode(), pytest.raises(RuntimeError, match="resid_post of layer 1"):
        made.prove(model.run)


def test_layers_that_add_themselves_give_a_warning_and_cannot_be_steered_between() -> None:
    layers: list[nn.Module] = [AddingLayer() for _ in range(4)]
    store = make_store()
    store.remove("mid")
    store.start()
    model = Model(layers)
    found = found_in(model)
    made = EngineSteering(Configuration(None), store, found, 32, torch.device("cpu"))
    with pytest.warns(FaststeerWarning, match="AddingLayer adds to the residual stream itself"):
        made.attach(lambda norm: 0.0, lambda norm: True)
    with torch.inference_mode():
        made.prove(model.run)
        made.prove_compiled(model.run)
    with pytest.raises(ValueError, match="resid_mid of layer 1"):
        EngineSteering(Configuration(None), make_store(), found, 32, torch.device("cpu"))


def test_a_module_with_a_forward_of_its_own_is_refused() -> None:
    model = Model([Layer() for _ in range(4)])
    model.norm.forward = model.norm.forward
    with pytest.raises(RuntimeError, match="Norm has a forward of its own"):
        steering(model)


def test_missing_layers_are_left_alone() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = Model([Layer() for _ in range(4)], 1, 4)
        steering_of_stage = steering(model)
    assert isinstance(model.layers[0], MissingLayer)
    assert Site(0, POST) in steering_of_stage.sites
