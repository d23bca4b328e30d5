"""Every family is steered as by plain hooks and restored to stock afterwards."""

import copy
from typing import Any

import pytest
import torch
from counting import CountsFused
from plain_hooks import hooked, random_vector
from tiny import MakeTiny
from tiny_families import MORE

import faststeer
from faststeer.models.families import known_families

IDS = torch.randint(1, 500, (2, 9), generator=torch.Generator().manual_seed(5))
SITES = ("resid_pre", "resid_mid", "resid_post")


@pytest.fixture(params=MORE)
def model(request: pytest.FixtureRequest, make_tiny: MakeTiny) -> Any:
    return make_tiny(family=request.param, **MORE[request.param])


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(IDS).logits
    return found


def test_each_family_is_known_by_its_decoder(make_tiny) -> None:
    made = [make_tiny(family=name, **more) for name, more in MORE.items()]
    assert known_families() == [type(model.model).__name__ for model in made]


def test_an_idle_model_equals_stock_and_stock_is_restored(model) -> None:
    stock = logits(model)
    types = [type(module) for module in model.modules()]
    with faststeer.patch(model) as patched:
        assert [type(m) for m in model.modules()] != types
        with CountsFused() as fused:
            logits(model)
        assert fused.count == 8  # both adds of each of four layers
        torch.testing.assert_close(logits(model), stock, rtol=0, atol=1e-5)
        assert patched.num_layers == 4
    assert [type(module) for module in model.modules()] == types
    assert torch.equal(logits(model), stock)


@pytest.mark.parametrize("site", SITES)
def test_each_family_is_steered_as_by_plain_hooks(model, site: str) -> None:
    vector = random_vector("v", range(4), site=site)
    with hooked(model.model, [(vector, 1.5, range(4))]):
        expected = logits(model)
    stock = logits(model)
    with faststeer.patch(model) as patched:
        patched.steer(vector, 1.5)
        steered = logits(model)
    assert float((expected - stock).abs().max()) > 0.1
    # Rounding alone reaches 1.2e-5 (Gemma 3 of transformers 4.57, whose embedding is scaled).
    torch.testing.assert_close(steered, expected, rtol=0, atol=3e-5)


def test_each_sequence_has_its_own_steering_while_it_generates(model) -> None:
    vector = random_vector("v", [1, 2])
    options: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
    alone = []
    for row, dose in enumerate((20.0, -20.0)):
        with hooked(model.model, [(vector, dose, [1, 2])]):
            alone.append(model.generate(IDS[row : row + 1], **options))
    with faststeer.patch(model) as patched:
        patched.steer(vector, 0.0)
        with patched.rows([{"v": 20.0}, {"v": -20.0}]):
            together = model.generate(IDS, **options)
    assert torch.equal(together, torch.cat(alone))
    unsteered = model.generate(IDS, **options)
    assert not any(torch.equal(one, other) for one, other in zip(together, unsteered, strict=True))


def test_gradients_are_those_of_the_stock_model(model) -> None:
    stock = copy.deepcopy(model)
    stock(IDS, labels=IDS, use_cache=False).loss.backward()
    with faststeer.patch(model):
        model(IDS, labels=IDS, use_cache=False).loss.backward()
    for (name, own), theirs in zip(model.named_parameters(), stock.parameters(), strict=True):
        assert theirs.grad is not None, name
        largest = float(theirs.grad.abs().max())
        assert float((own.grad - theirs.grad).abs().max()) <= 1e-4 * largest + 1e-9, name
