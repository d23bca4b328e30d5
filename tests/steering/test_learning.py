"""Trainable vectors: gradients, combination with other steering, and the learned result."""

import copy

import pytest
import torch
from plain_hooks import hooked, random_vector
from renamed_arguments import enable_checkpointing
from torch import Tensor, nn

import faststeer
from faststeer import SteeringVector

IDS = torch.randint(0, 512, (3, 8), generator=torch.Generator().manual_seed(4))
SITES = ("resid_pre", "resid_mid", "resid_post")
LAYERS = (0, 2, 3)


class HookedVector(nn.Module):
    """Reference: the same parameters, added by conventional forward hooks."""

    def __init__(self, vector: SteeringVector, coefficient: float) -> None:
        super().__init__()
        self.coefficient = nn.Parameter(torch.tensor(coefficient))
        self.site = vector.site
        self.directions = nn.ParameterDict(
            {str(layer): direction.clone() for layer, direction in vector.directions.items()}
        )

    def attach(self, model) -> None:
        for layer, direction in self.directions.items():
            block = model.model.layers[int(layer)]

            def added(hidden: Tensor, direction: Tensor = direction) -> Tensor:
                return hidden + self.coefficient * direction

            if self.site == "resid_pre":
                block.register_forward_pre_hook(
                    lambda module, args, add=added: (add(args[0]), *args[1:])
                )
            elif self.site == "resid_mid":
                block.self_attn.register_forward_hook(
                    lambda module, args, output, add=added: (add(output[0]), *output[1:])
                )
            else:
                block.register_forward_hook(lambda module, args, output, add=added: add(output))


def gradients(model, learned: nn.Module) -> dict[str, Tensor]:
    model(IDS, labels=IDS, use_cache=False).loss.backward()
    return {name: p.grad for name, p in learned.named_parameters()}


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("checkpointing", [None, False, True])
def test_gradients_reach_directions_and_coefficient_as_through_plain_hooks(
    tiny_model, site: str, checkpointing: bool | None
) -> None:
    """`checkpointing`: use_reentrant, or None for no checkpointing."""
    vector = random_vector("v", LAYERS, site=site)
    tiny_model.requires_grad_(False)
    if checkpointing is not None:
        tiny_model.train()
        enable_checkpointing(tiny_model, {"use_reentrant": checkpointing})
        tiny_model.enable_input_require_grads()
    stock = copy.deepcopy(tiny_model)
    reference = HookedVector(vector, 1.5)
    reference.attach(stock)
    expected = gradients(stock, reference)
    with faststeer.patch(tiny_model) as patched:
        learned = patched.learn(vector, 1.5)
        found = gradients(tiny_model, learned)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert float(gradient.abs().max()) > 0
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-7)


def test_a_learned_vector_steers_beside_others_and_in_rows(tiny_model) -> None:
    mine, other = random_vector("mine", LAYERS), random_vector("other", LAYERS, seed=1)
    with torch.no_grad(), faststeer.patch(tiny_model) as patched:
        patched.learn(mine, 2.0, layers={0: 1.0, 2: -0.5})
        patched.steer(other, 1.5, layers=2)
        with patched.rows([{}, {"other": 1.0}, {"other": -3.0}]):
            rows = tiny_model(IDS).logits
        together = tiny_model(IDS).logits
        with patched.off():
            idle = tiny_model(IDS).logits
    for row, dose in enumerate((0.0, 1.0, -3.0)):
        terms = [(mine, 2.0, [0]), (mine, -1.0, [2]), (other, dose, [2])]
        with torch.no_grad(), hooked(tiny_model.model, terms):
            torch.testing.assert_close(rows[row], tiny_model(IDS).logits[row], rtol=0, atol=1e-5)
    with (
        torch.no_grad(),
        hooked(tiny_model.model, [(mine, 2.0, [0]), (mine, -1.0, [2]), (other, 1.5, [2])]),
    ):
        torch.testing.assert_close(together, tiny_model(IDS).logits, rtol=0, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(idle, tiny_model(IDS).logits, rtol=0, atol=1e-5)


def test_the_learned_vector_steers_equally_after_export(tiny_model) -> None:
    with faststeer.patch(tiny_model) as patched:
        learned = patched.learn(random_vector("v", LAYERS), 1.0)
        optimizer = torch.optim.SGD(learned.parameters(), lr=1.0)
        before = float(tiny_model(IDS, labels=IDS).loss.detach())
        for _ in range(5):
            optimizer.zero_grad()
            tiny_model(IDS, labels=IDS).loss.backward()
            optimizer.step()
        with torch.no_grad():
            trained = tiny_model(IDS, labels=IDS)
        assert float(trained.loss) < before - 0.01
        learned.remove()
        patched.steer(learned.vector)
        with torch.no_grad():
            torch.testing.assert_close(tiny_model(IDS).logits, trained.logits, rtol=0, atol=1e-5)
    assert learned.vector.metadata["method"] == "learned"


def test_a_learned_vector_must_fit_the_model(tiny_model) -> None:
    with faststeer.patch(tiny_model) as patched:
        with pytest.raises(ValueError, match="hidden size 32, but the model's is 64"):
            patched.learn(random_vector("v", [0], hidden=32))
        with pytest.raises(ValueError, match="layer 4 is out of range"):
            patched.learn(random_vector("v", [4]))
        assert not patched.plan.tables.learned
