"""A model whose forward fails while it is read is restored to its previous state."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from tiny import ByteTokenizer, MakeTiny
from torch import nn
from unusual_decoders import strange

import faststeer
from faststeer import diagnostics, evaluate
from faststeer.models.text_calls import decoder_of

PAIRS = [("I love it", "I hate it"), ("so good", "so bad"), ("yes", "no, never, not at all")]

pytestmark = pytest.mark.filterwarnings("ignore:.*is not of a family that faststeer fuses")


class Failure(RuntimeError):
    """An error raised by the model itself."""


VECTOR = faststeer.SteeringVector("v", {1: torch.ones(64)})
CALLS: dict[str, Callable[[Any, Any], Any]] = {
    "extract": lambda m, t: faststeer.extract(m, t, PAIRS, batch_size=2, progress=False),
    "activations": lambda m, t: faststeer.activations(m, t, ["a", "bcd", "e" * 40], progress=False),
    "act_add": lambda m, t: faststeer.act_add(m, t, "Love", "Hate", layer=2),
    "project_tokens": lambda m, t: diagnostics.project_tokens(m, t, VECTOR, ["a", "bc"]),
    "token_scores": lambda m, t: evaluate.token_scores(m, t, ["abc", "a longer text"]),
}


def state(model: nn.Module) -> Any:
    return [
        (
            name,
            type(module),
            module.training,
            len(module._forward_hooks),
            len(module._forward_pre_hooks),
            sorted(set(module.__dict__)),
        )
        for name, module in model.named_modules()
    ]


@pytest.fixture(params=["stock", "unknown", "patched", "installed"])
def model(request: pytest.FixtureRequest, make_tiny: MakeTiny) -> Iterator[Any]:
    """Return a model of each kind, in training mode except for one layer."""
    if request.param == "installed":
        faststeer.install()
    made = strange("GPT2LMHeadModel") if request.param == "unknown" else make_tiny()
    made.train()
    layers_of(made)[0].eval()
    if request.param == "patched":
        faststeer.patch(made).steer(VECTOR, 2.0)
    yield made
    if request.param == "installed":
        faststeer.uninstall()


def layers_of(model: Any) -> Any:
    return model.transformer.h if hasattr(model, "transformer") else model.model.layers


@pytest.mark.parametrize("name", CALLS)
def test_wherever_it_fails_the_model_is_restored_and_can_be_read_again(
    name: str, model: Any, byte_tokenizer: ByteTokenizer
) -> None:
    passes: list[int] = []
    fails_at = 0

    def fail(module: nn.Module, args: Any) -> None:
        passes.append(1)
        if len(passes) == fails_at:
            raise Failure

    layers_of(model)[1].mlp.register_forward_pre_hook(fail)
    before = state(model)
    CALLS[name](model, byte_tokenizer)
    assert state(model) == before
    for number in range(1, len(passes) + 1):
        passes.clear()
        fails_at = number
        with pytest.raises(Failure):
            CALLS[name](model, byte_tokenizer)
        assert state(model) == before
    if isinstance(mark := decoder_of(model).__dict__.get("_faststeer"), faststeer.Patched):
        assert not any(table.readers for table in mark.plan.tables.values())
        assert not mark.plan.forward.guard.in_forward
    fails_at = 0
    CALLS[name](model, byte_tokenizer)
