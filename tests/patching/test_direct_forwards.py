"""Eager forwards call ops without torch's dispatcher, and leave what others hold as it was."""

from collections import Counter

import pytest
import torch
from plain_hooks import random_vector
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import faststeer
from faststeer.models import residual_stream
from faststeer.vectors.sites import Site

IDS = torch.tensor([[5, 17, 3, 99, 42, 7]])
LAYERS = 4
CALLS = 2 * LAYERS
OP = "faststeer::steer_add_rms_norm"


class SeenOps(TorchDispatchMode):
    """Counts the ops that go through torch's dispatcher."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.counts[function._schema.name] += 1
        return function(*args, **kwargs or {})


@pytest.fixture
def direct_calls(monkeypatch) -> list[bool]:
    """Return whether each direct call of a fused site computed its result."""
    made, call = [], residual_stream._C.steer_add_norm

    class Counted:
        run_plainly = staticmethod(residual_stream._C.run_plainly)

        @staticmethod
        def steer_add_norm(*arguments: object) -> object:
            results = call(*arguments)
            made.append(results is not None)
            return results

    monkeypatch.setattr(residual_stream, "_C", Counted)
    return made


@torch.no_grad()
def test_a_mode_sees_every_op_and_the_results_are_the_same(tiny_model, direct_calls) -> None:
    patched = faststeer.patch(tiny_model)
    patched.steer(random_vector("v", [1, 2]), 2.0)
    tiny_model(IDS)  # measures doses
    direct_calls.clear()
    alone = tiny_model(IDS).logits
    assert direct_calls == [True] * CALLS
    with SeenOps() as seen:
        watched = tiny_model(IDS).logits
    assert seen.counts[OP] == CALLS
    assert len(direct_calls) == CALLS
    assert torch.equal(watched, alone)


def test_with_gradients_no_call_is_direct(tiny_model, direct_calls) -> None:
    faststeer.patch(tiny_model)
    tiny_model(IDS)
    assert True not in direct_calls


@torch.no_grad()
def test_outside_of_a_forward_layers_take_the_way_through_the_dispatcher(
    tiny_model, direct_calls
) -> None:
    faststeer.patch(tiny_model)

    class BrokenError(Exception):
        pass

    def fail(*_: object) -> None:
        raise BrokenError

    hook = tiny_model.model.layers[2].register_forward_pre_hook(fail)
    with pytest.raises(BrokenError):
        tiny_model(IDS)
    hook.remove()
    assert direct_calls
    direct_calls.clear()
    hidden = torch.randn(1, 3, tiny_model.config.hidden_size)
    rotary = tiny_model.model.rotary_emb(hidden, torch.arange(3)[None])
    tiny_model.model.layers[1](hidden, position_embeddings=rotary)
    assert direct_calls == []


@torch.inference_mode()
@pytest.mark.parametrize("read", ["", "resid_mid", "resid_post", "inputs"])
def test_no_tensor_that_others_hold_is_overwritten(tiny_model, direct_calls, read: str) -> None:
    patched = faststeer.patch(tiny_model)
    patched.steer(random_vector("v", [0, 1, 2, 3], site="resid_mid"), 2.0)
    tiny_model(IDS)
    held: list[Tensor] = []
    copies: list[Tensor] = []

    def keep(*tensors: Tensor) -> None:
        held.extend(tensors)
        copies.extend(tensor.clone() for tensor in tensors)

    for layer in range(LAYERS):
        if read == "inputs":
            patched.plan.tables[Site(layer, "resid_post")].inputs_readers.append(keep)
        elif read:
            patched.plan.tables[Site(layer, read)].readers.append(keep)
    direct_calls.clear()
    tiny_model(IDS)
    assert direct_calls == [True] * CALLS
    assert len(held) == {"": 0, "inputs": 2 * LAYERS}.get(read, LAYERS)
    assert all(torch.equal(own, copy) for own, copy in zip(held, copies, strict=True))


@torch.inference_mode()
def test_what_attention_and_the_mlp_are_given_and_return_stays_as_it_was(tiny_model) -> None:
    faststeer.patch(tiny_model).steer(random_vector("v", [0, 1, 2, 3]), 2.0)
    held: list[tuple[Tensor, Tensor]] = []

    def keep(module: nn.Module, args: tuple, kwargs: dict, output: object) -> None:
        first = output[0] if isinstance(output, tuple) else output
        for tensor in (*args, *kwargs.values(), first):
            if isinstance(tensor, Tensor):
                held.append((tensor, tensor.clone()))

    for layer in tiny_model.model.layers:
        for module in (layer.self_attn, layer.mlp):
            module.register_forward_hook(keep, with_kwargs=True)
    tiny_model(IDS)
    assert len(held) >= 4 * LAYERS
    assert all(torch.equal(own, copy) for own, copy in held)
