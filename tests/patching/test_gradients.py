"""Training through a patched model: the stock model's gradients, checkpointed or not."""

import copy

import pytest
import torch
from plain_hooks import hooked, random_vector
from renamed_arguments import enable_checkpointing

import faststeer

IDS = torch.randint(0, 512, (2, 8), generator=torch.Generator().manual_seed(4))
VECTOR = random_vector("v", range(4))


def gradients(model) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model(IDS, labels=IDS, use_cache=False).loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        scale = gradient.abs().max()
        assert scale > 0, name
        assert (found[name] - gradient).abs().max() < 2e-5 * scale, name


@pytest.mark.parametrize("checkpointing", [None, False, True])
@pytest.mark.parametrize("steered", [False, True])
def test_gradients_are_those_of_the_stock_model(tiny_model, checkpointing, steered) -> None:
    """`checkpointing`: use_reentrant, or None for none. True first runs without grad."""
    tiny_model.train()
    if checkpointing is not None:
        options = {"use_reentrant": checkpointing}
        enable_checkpointing(tiny_model, options)
        tiny_model.enable_input_require_grads()
    stock = copy.deepcopy(tiny_model)
    with hooked(stock.model, [(VECTOR, 1.5, range(4))] if steered else []):
        expected = gradients(stock)
    with faststeer.patch(tiny_model) as patched:
        if steered:
            patched.steer(VECTOR, 1.5)
        assert_equal(gradients(tiny_model), expected)
        with torch.no_grad():  # values left over from inference must not reach training
            tiny_model(IDS, use_cache=False)
        assert_equal(gradients(tiny_model), expected)
    assert_equal(gradients(tiny_model), gradients(stock) if not steered else gradients(tiny_model))


def test_frozen_weights_still_pass_gradients_to_the_input(tiny_model) -> None:
    tiny_model.requires_grad_(False)
    embedded = tiny_model.model.embed_tokens(IDS).requires_grad_()

    def gradient():
        loss = tiny_model(inputs_embeds=embedded).logits.square().mean()
        return torch.autograd.grad(loss, embedded)[0]

    with hooked(tiny_model.model, [(VECTOR, 1.5, range(4))]):
        expected = gradient()
    with faststeer.patch(tiny_model) as patched:
        patched.steer(VECTOR, 1.5)
        torch.testing.assert_close(gradient(), expected, rtol=1e-4, atol=1e-7)


def test_a_coefficient_may_change_between_forward_and_backward(tiny_model) -> None:
    with faststeer.patch(tiny_model) as patched:
        handle = patched.steer(VECTOR, 1.5)
        loss = tiny_model(IDS, labels=IDS).loss
        handle.coefficient = 3.0
        loss.backward()
    assert tiny_model.model.layers[0].mlp.up_proj.weight.grad.abs().max() > 0
