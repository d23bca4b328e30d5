"""A model compiled before it is patched, or changed afterwards, is still steered."""

import copy
from typing import Any

import pytest
import torch
import transformers
from by_token import padded
from plain_hooks import hooked, random_vector
from unknown_decoders import make

import faststeer

pytestmark = pytest.mark.filterwarnings("ignore:.*hooks steer it:faststeer.FaststeerWarning")

IDS, MASK = padded((5, 9, 7))
V = random_vector("v", range(3))
CLOSE = {"rtol": 0, "atol": 1e-5}
SIZES: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3}
FACTS = {**SIZES, "num_attention_heads": 4, "vocab_size": 512, "initializer_range": 0.1}


def build(name: str) -> Any:
    """Return a model whose blocks are at `model.blocks.layers`."""
    if name in ("GPT2", "GPTNeoX"):
        return make(name)
    config = getattr(transformers, f"{name}Config")(**FACTS, pad_token_id=0)
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    model.__dict__["blocks"] = model.model
    return model


@pytest.fixture(params=["GPT2", "GPTNeoX", "Olmo2", "Cohere", "Llama"])
def model(request) -> Any:
    torch._dynamo.reset()
    return build(request.param)


def logits(model, **kwargs) -> torch.Tensor:
    with torch.inference_mode():
        return model(IDS, attention_mask=MASK, **kwargs).logits


def expected(model, coefficient=2.0, layers=range(3)) -> torch.Tensor:
    with hooked(model.blocks, [(V, coefficient, layers)]):
        return logits(model)


@pytest.mark.parametrize("graphs", ["one graph", "several"])
def test_a_model_compiled_and_run_before_it_is_patched_is_steered(model, graphs) -> None:
    steered = expected(model)
    compiled = torch.compile(model, backend="eager", fullgraph=graphs == "one graph")
    if graphs == "several":
        for layer in model.blocks.layers:
            layer.register_forward_pre_hook(lambda *_: torch._dynamo.graph_break())
    stock = logits(compiled)
    assert float((stock - steered).abs().max()) > 0.1
    with faststeer.patch(model) as patched:
        patched.steer(V, 2.0)
        torch.testing.assert_close(logits(compiled), steered, **CLOSE)
    assert torch.equal(logits(compiled), stock)


def test_a_model_compiled_and_run_before_is_captured(model) -> None:
    compiled = torch.compile(model, backend="eager")
    logits(compiled)
    with faststeer.capture(model) as moments:
        logits(compiled)
    assert [int(own.count) for own in moments.values()] == [int(MASK.sum())] * 3


@pytest.mark.parametrize("compile", [False, True])
def test_a_layer_replaced_after_patching_is_steered(model, compile) -> None:
    other = copy.deepcopy(model.blocks.layers[1])
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.5)
    patched = faststeer.patch(model)
    run = torch.compile(model, backend="eager") if compile else model
    patched.steer(V, 2.0)
    before = logits(run)
    own = model.blocks.layers[1]
    model.blocks.layers[1] = other
    found = logits(run)
    with patched.off():
        reference = expected(model)
    assert float((reference - before).abs().max()) > 0.1
    torch.testing.assert_close(found, reference, **CLOSE)
    patched.unpatch()
    assert type(own) is type(other) is type(model.blocks.layers[0])
    assert "Steered" not in repr(type(own))
    torch.testing.assert_close(expected(model), reference, **CLOSE)


def test_a_replacement_layer_that_cannot_be_steered_is_refused() -> None:
    model = build("Llama")
    patched = faststeer.patch(model)
    patched.steer(V, 2.0)
    model.model.layers[1] = torch.nn.Linear(64, 64)
    with pytest.raises(ValueError, match=r"layer 1 is a torch\.nn\.modules\.linear\.Linear"):
        logits(model)


def test_more_or_fewer_layers_than_were_patched_are_refused(model) -> None:
    patched = faststeer.patch(model)
    patched.steer(V, 2.0)
    del model.blocks.layers[2]
    with pytest.raises(ValueError, match=r"had 3 layers when .* and has 2 now; unpatch"):
        logits(model)


def test_a_block_used_as_several_layers_is_refused() -> None:
    model = make("GPT2")
    model.transformer.h[2] = model.transformer.h[0]
    with pytest.raises(ValueError, match="GPT2Model uses one block as several layers"):
        faststeer.patch(model)
