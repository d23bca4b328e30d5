"""What cannot be baked is refused with a reason, and nothing changes."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
import transformers
from plain_hooks import random_vector
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaForCausalLM

import faststeer

GOOD = random_vector("v", [1, 2])


def state(model: nn.Module) -> tuple[list[Any], dict[str, Any]]:
    config = getattr(model, "config", None)
    facts = config.to_dict() if hasattr(config, "to_dict") else {}
    return [(n, p, p.clone()) for n, p in model.named_parameters()], facts


def unchanged(model: nn.Module, before: tuple[list[Any], dict[str, Any]]) -> bool:
    parameters, facts = before
    now = dict(model.named_parameters())
    same = all(
        now[name] is it and (it.is_meta or bool((it == values).all()))
        for name, it, values in parameters
    )
    return same and len(now) == len(parameters) and state(model)[1] == facts


def zeros(layers: list[int]) -> faststeer.SteeringVector:
    return faststeer.SteeringVector("zero", {n: torch.zeros(64) for n in layers})


STEERING = [
    (ValueError, "hidden size 63, but the model's is 64", (random_vector("v", [1], 63),), {}),
    (ValueError, "layer 9 is out of range: the model has 0 to 3", (random_vector("v", [9]),), {}),
    (ValueError, "no direction for layer 3; it has [1, 2]", (GOOD, 1.0, 3), {}),
    (ValueError, "no layers were given", (GOOD, 1.0, []), {}),
    (ValueError, "coefficient of 'v' is nan; expected a finite", (GOOD, math.nan), {}),
    (ValueError, "factor of layer 1 is inf; expected a finite", (GOOD, 1.0, {1: math.inf}), {}),
    (ValueError, "mode 'project' is unknown; expected one of add", (GOOD,), {"mode": "project"}),
    (
        ValueError,
        "layers.1.mlp.down_proj.bias would have to hold",
        (random_vector("v", [1]), 1e39),
        {},
    ),
    (
        ValueError,
        "model.embed_tokens.weight would have to hold",
        (random_vector("v", [0], site="resid_pre"), 1e39),
        {},
    ),
    (ValueError, "embed_tokens.weight would have", (GOOD, 1e45, 1), {"mode": "ablate"}),
    (ValueError, "would have to hold inf", (GOOD, 1e300, {1: 1e300}), {}),
    (
        ValueError,
        "give the one layer, of [1, 2], whose direction that is",
        (GOOD,),
        {"mode": "ablate"},
    ),
    (ValueError, "layer 1: the direction is zero", (zeros([1]),), {"mode": "ablate"}),
    (TypeError, "no positions: a checkpoint holds constant", (GOOD,), {"positions": "prompt"}),
    (TypeError, "is a list; expected a number: a checkpoint holds constant", (GOOD, [1.0]), {}),
    (TypeError, "bake() got a Tensor; expected a SteeringVector", (torch.ones(64),), {}),
]


@pytest.mark.parametrize(("error", "message", "args", "kwargs"), STEERING, ids=str)
def test_bad_steering_is_refused_before_anything_changes(
    tiny_model, error, message, args, kwargs
) -> None:
    before = state(tiny_model)
    with pytest.raises(error, match=re.escape(message)):
        faststeer.bake(tiny_model, *args, **kwargs)
    assert unchanged(tiny_model, before)


@pytest.mark.parametrize("mode", ["add", "ablate"])
def test_values_outside_the_weights_dtype_are_refused(make_tiny, mode) -> None:
    """float16 overflows above 65504, bfloat16 does not."""
    layers = {"add": None, "ablate": 1}[mode]
    model = make_tiny(torch.float16)
    before = state(model)
    with pytest.raises(ValueError, match=r"torch\.float16 holds 65504 at most"):
        faststeer.bake(model, GOOD, 1e6, layers, mode=mode)
    assert unchanged(model, before)
    assert faststeer.bake(make_tiny(torch.bfloat16), GOOD, 1e6, layers, mode=mode)


def other_family(make_tiny: Any) -> nn.Module:
    return GPT2LMHeadModel(GPT2Config(n_embd=64, n_layer=4, n_head=4, vocab_size=512))


def bare(make_tiny: Any) -> nn.Module:
    return make_tiny().model


def subclass(make_tiny: Any) -> nn.Module:
    model = make_tiny()
    model.__class__ = type("MyLlama", (LlamaForCausalLM,), {})
    return model


def patched(make_tiny: Any) -> nn.Module:
    model = make_tiny()
    faststeer.patch(model)
    return model


def adapted(make_tiny: Any) -> nn.Module:
    peft = pytest.importorskip("peft")
    return peft.get_peft_model(make_tiny(), peft.LoraConfig(r=2, target_modules=["q_proj"]))


def inside_peft(make_tiny: Any) -> nn.Module:
    return adapted(make_tiny).base_model.model


def with_own_adapter(make_tiny: Any) -> nn.Module:
    peft = pytest.importorskip("peft")
    model = make_tiny()
    # transformers 5.24 requires an unreleased PEFT; its result with this one is the same.
    own = transformers.integrations.peft
    with mock.patch.object(own, "check_peft_version"):
        model.add_adapter(peft.LoraConfig(r=2, target_modules=["q_proj"]))
    return model


def packed_linear(make_tiny: Any) -> nn.Module:
    model = make_tiny()
    linear = model.model.layers[2].mlp.up_proj
    linear.__class__ = type("Linear8bitLt", (nn.Linear,), {"__module__": "bitsandbytes.nn"})
    return model


def int8(make_tiny: Any) -> nn.Module:
    model = make_tiny()
    linear = model.model.layers[0].self_attn.o_proj
    linear.weight = nn.Parameter(linear.weight.detach().to(torch.int8), requires_grad=False)
    return model


def float8(make_tiny: Any) -> nn.Module:
    model = make_tiny()
    linear = model.model.layers[3].mlp.down_proj
    linear.weight = nn.Parameter(linear.weight.detach().to(torch.float8_e4m3fn))
    return model


def tensor_subclass(make_tiny: Any) -> nn.Module:
    class Packed(torch.Tensor):
        pass

    model = make_tiny()
    linear = model.model.layers[0].mlp.down_proj
    linear.weight = nn.Parameter(linear.weight.detach().as_subclass(Packed))
    return model


def loaded_as_quantised(make_tiny: Any) -> nn.Module:
    model = make_tiny()
    model.config.quantization_config = {"quant_method": "gguf"}
    return model


def offloaded(make_tiny: Any) -> nn.Module:
    model = make_tiny()
    model.model.layers[1].mlp.to("meta")
    return model


def tensor_parallel(make_tiny: Any) -> nn.Module:
    model = make_tiny()
    model._tp_size = 2
    return model


def partitioned(make_tiny: Any) -> nn.Module:
    model = make_tiny()
    model.model.layers[1].mlp.down_proj.weight.data = torch.zeros(0)
    return model


def repeated_layer(make_tiny: Any) -> nn.Module:
    model = make_tiny()
    model.model.layers[3] = model.model.layers[2]
    return model


MODELS: list[tuple[Callable[[Any], nn.Module], str]] = [
    (other_family, "bake() does not know the weights of a GPT2LMHeadModel: which of them write"),
    (other_family, "is not known; expected one of LlamaForCausalLM, MistralForCausalLM, Qwen2"),
    (bare, "does not know the weights of a LlamaModel: which of them write into the residual"),
    (subclass, "does not know the weights of a MyLlama: which of them write into the residual"),
    (
        patched,
        "the model is patched, and its active vectors are not in its weights: unpatch it first",
    ),
    (adapted, "does not know the weights of a PeftModel: merge its adapters first, model ="),
    (inside_peft, "layers.0.self_attn.q_proj is a peft.tuners.lora.layer.Linear, not a stock"),
    (with_own_adapter, "the model has adapters, and would be saved as these alone: merge them"),
    (packed_linear, "layers.2.mlp.up_proj is a bitsandbytes.nn.Linear8bitLt, not a stock Linear"),
    (int8, "layers.0.self_attn.o_proj.weight is quantised to torch.int8: load the unquantised"),
    (float8, "layers.3.mlp.down_proj.weight is quantised to torch.float8_e4m3fn: load the"),
    (tensor_subclass, "layers.0.mlp.down_proj.weight is a Packed, not a plain Parameter: gather"),
    (loaded_as_quantised, "the model was loaded as quantised, and so it would be saved: load the"),
    (offloaded, "layers.1.mlp.gate_proj.weight is not in memory (offloaded, or never loaded)"),
    (tensor_parallel, "the weights are sharded over 2 devices: load them whole"),
    (partitioned, "layers.1.mlp.down_proj.weight has shape (0,) where its module has (64, 128)"),
    (repeated_layer, "layers.2.self_attn.q_proj and model.layers.3.self_attn.q_proj share their"),
]


@pytest.mark.parametrize("mode", ["add", "ablate"])
@pytest.mark.parametrize(("make", "message"), MODELS, ids=lambda one: getattr(one, "__name__", ""))
def test_a_model_that_cannot_be_baked_into_is_refused_untouched(
    make_tiny, make, message, mode
) -> None:
    model = make(make_tiny)
    before = state(model)
    with pytest.raises(ValueError, match=re.escape(message)):
        faststeer.bake(model, GOOD, layers=1, mode=mode)
    assert unchanged(model, before)


def test_sharded_tensors_are_refused(tiny_model) -> None:
    from torch import distributed
    from torch.distributed.tensor import distribute_tensor, init_device_mesh

    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        linear = tiny_model.model.layers[1].mlp.down_proj
        mesh = init_device_mesh("cpu", (1,))
        linear.weight = nn.Parameter(distribute_tensor(linear.weight.detach(), mesh))
        with pytest.raises(
            ValueError, match=r"layers\.1\.mlp\.down_proj\.weight is a DTensor, not"
        ):
            faststeer.bake(tiny_model, GOOD)
    finally:
        distributed.destroy_process_group()


def test_an_object_that_is_not_a_model_is_refused() -> None:
    with pytest.raises(TypeError, match="got a str; expected a LlamaForCausalLM"):
        faststeer.bake("model", GOOD)


def test_a_vector_of_another_model_warns_where_bake_was_called(tiny_model) -> None:
    tiny_model.config._name_or_path = "mine"
    other = faststeer.SteeringVector("v", GOOD.directions, metadata={"model": "theirs"})
    with pytest.warns(faststeer.FaststeerWarning, match="'theirs'.*'mine'") as caught:
        faststeer.bake(tiny_model, other)
    assert caught[0].filename == __file__
