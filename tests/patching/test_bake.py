"""A baked model gives the steered model's logits, and nothing else in it changes."""

from __future__ import annotations

import copy
import types
from typing import Any

import pytest
import torch
from baking import BIASED, IDS, SITES, changed, near
from plain_hooks import hooked, random_vector
from torch import Tensor
from transformers import LlamaForCausalLM

import faststeer

FLAGS = (*BIASED, "tie_word_embeddings")


def logits(model: LlamaForCausalLM) -> Tensor:
    with torch.inference_mode():
        return model(IDS).logits


def double(model: LlamaForCausalLM) -> LlamaForCausalLM:
    """Return a float64 model with float64 norms: the stock norm always computes in float32."""

    def norm(self: Any, hidden: Tensor) -> Tensor:
        scale = torch.rsqrt(hidden.square().mean(-1, keepdim=True) + self.variance_epsilon)
        return self.weight * (hidden * scale)

    for module in model.modules():
        if type(module).__name__ == "LlamaRMSNorm":
            module.forward = types.MethodType(norm, module)
    return model.double()


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("config", [{}, {"tie_word_embeddings": True}, BIASED], ids=str)
def test_in_float64_a_baked_vector_equals_the_added_one(make_tiny, site, config) -> None:
    model = double(make_tiny(**config))
    vector = random_vector("v", range(4), site=site)
    weights = {0: -1.5, 2: 3.0}

    def add(there: str, layer: int, hidden: Tensor) -> Tensor:
        if site == "resid_pre" and layer + 1 in weights and there == "resid_post":
            layer, there = layer + 1, "resid_pre"
        if there != site or layer not in weights:
            return hidden
        return hidden + weights[layer] * vector.directions[layer].double()

    with changed(model, add):
        expected = logits(model)
    idle = logits(model)
    assert faststeer.bake(model, vector, 1.5, {0: -1.0, 2: 2.0}) is model
    found = logits(model)
    # The order of summation differs: 1e-12 is some thousand float64 roundings.
    assert (found - expected).abs().max() < 1e-12
    assert (expected - idle).abs().max() > 0.1


@pytest.mark.parametrize("config", [{}, {"tie_word_embeddings": True}, BIASED], ids=str)
def test_in_float64_ablation_equals_the_projection_at_every_site(make_tiny, config) -> None:
    model = double(make_tiny(**config))
    vector = random_vector("v", range(4)) * 3.0
    unit = vector.directions[2].double() / vector.directions[2].double().norm()
    left = []

    def project(site: str, layer: int, hidden: Tensor) -> Tensor:
        return hidden - torch.outer((hidden @ unit).flatten(), unit).view_as(hidden)

    def read(site: str, layer: int, hidden: Tensor) -> Tensor:
        left.append((hidden @ unit).abs().max())
        return hidden

    with changed(model, project):
        expected = logits(model)
    idle = logits(model)
    faststeer.bake(model, vector, layers=2, mode="ablate")
    with changed(model, read):
        found = logits(model)
    assert (found - expected).abs().max() < 1e-12
    assert (expected - idle).abs().max() > 0.1
    assert len(left) == 9
    assert max(left) < 1e-13


def test_a_fraction_is_removed_from_each_write(make_tiny) -> None:
    model = double(make_tiny(**BIASED))
    vector = random_vector("v", [1])
    unit = vector.directions[1].double() / vector.directions[1].double().norm()

    def less(module: Any, args: Any, output: Tensor) -> Tensor:
        return output - 0.3 * torch.outer((output @ unit).flatten(), unit).view_as(output)

    writers = [model.model.embed_tokens]
    for layer in model.model.layers:
        writers += [layer.self_attn.o_proj, layer.mlp.down_proj]
    hooks = [writer.register_forward_hook(less) for writer in writers]
    expected = logits(model)
    for hook in hooks:
        hook.remove()
    faststeer.bake(model, vector, 0.6, {1: 0.5}, mode="ablate")
    assert (logits(model) - expected).abs().max() < 1e-12


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("site", SITES)
def test_in_half_precision_baking_is_as_accurate_as_a_hook(make_tiny, dtype, site) -> None:
    """Reference: the same weights in float32. Measured: 0.94 to 1.01 of a hook's RMS error."""
    ratios = []
    for seed in range(8):
        model, exact_model = make_tiny(dtype, seed=seed), make_tiny(torch.float32, seed=seed)
        exact_model.load_state_dict(model.state_dict())
        vector = random_vector("v", range(4), seed=seed, site=site)
        with hooked(exact_model.model, [(vector, 2.0, range(4))]):
            exact = logits(exact_model)
        with hooked(model.model, [(vector, 2.0, range(4))]):
            hook = (logits(model) - exact).square().mean()
        faststeer.bake(model, vector, 2.0)
        ratios.append(((logits(model) - exact).square().mean() / hook).log() / 2)
    assert torch.stack(ratios).mean().exp() < 1.05


def test_baking_changes_only_the_necessary_weights(make_tiny) -> None:
    """A vector at one layer is one bias; the flag's other biases are zero and no weight changes."""
    for site, projection, flag, others in [
        ("resid_post", "mlp.down_proj", "mlp_bias", 3 * 4 - 1),
        ("resid_mid", "self_attn.o_proj", "attention_bias", 4 * 4 - 1),
    ]:
        model = make_tiny(tie_word_embeddings=True)
        before = copy.deepcopy(model.state_dict())
        vector = random_vector("v", [2], site=site)
        faststeer.bake(model, vector, 0.7)
        new = {k: v for k, v in model.state_dict().items() if k not in before}
        bias = new.pop(f"model.layers.2.{projection}.bias")
        assert torch.equal(bias, (0.7 * vector.directions[2].double()).float())
        assert len(new) == others
        assert not any(value.any() for value in new.values())
        assert all(torch.equal(model.state_dict()[k], value) for k, value in before.items())
        assert [one for one in FLAGS if getattr(model.config, one)] == [flag, FLAGS[2]]
        assert model.lm_head.weight is model.model.embed_tokens.weight


def test_a_deep_copy_keeps_the_original(tiny_model) -> None:
    idle, kept = logits(tiny_model), copy.deepcopy(tiny_model)
    faststeer.bake(tiny_model, random_vector("v", [0, 1], site="resid_pre"))
    assert torch.equal(logits(kept), idle)
    assert not kept.config.mlp_bias
    assert not hasattr(kept.config, "faststeer_baked")


@pytest.mark.parametrize("mode", ["add", "ablate"])
def test_baking_into_a_tied_embedding_leaves_the_head_unchanged(make_tiny, mode) -> None:
    model = make_tiny(tie_word_embeddings=True)
    before = model.lm_head.weight.detach().clone()
    faststeer.bake(model, random_vector("v", [0], site="resid_pre"), mode=mode)
    assert torch.equal(model.lm_head.weight, before)
    assert not torch.isclose(model.model.embed_tokens.weight, before).all(0).any()
    model.tie_weights()
    if hasattr(model, "all_tied_weights_keys"):  # transformers 5 records tied weights
        model.tie_weights(recompute_mapping=False)
    assert torch.equal(model.lm_head.weight, before)
    assert not model.config.tie_word_embeddings


def test_a_vector_added_after_an_ablation_is_preserved(make_tiny) -> None:
    direction = random_vector("v", [2])
    model = faststeer.bake(make_tiny(), direction, mode="ablate")
    with faststeer.patch(model) as patched:
        patched.steer(direction, 2.0)
        expected = logits(model)
    assert near(logits(faststeer.bake(model, direction, 2.0)), expected)
    assert not near(logits(faststeer.bake(model, direction, mode="ablate")), expected)


def test_a_baked_model_can_be_patched_and_steered_further(tiny_model) -> None:
    one, two = random_vector("one", [1, 2]), random_vector("two", [2, 3], seed=1)
    with faststeer.patch(tiny_model) as patched:
        patched.steer(one, 2.0)
        patched.steer(two, -1.0)
        expected = logits(tiny_model)
    faststeer.bake(tiny_model, one, 2.0)
    with faststeer.patch(tiny_model) as patched:
        patched.steer(two, -1.0)
        assert near(logits(tiny_model), expected)


def test_models_created_or_baked_in_inference_mode_are_baked_equally(make_tiny) -> None:
    def tied() -> LlamaForCausalLM:
        return make_tiny(tie_word_embeddings=True)

    vector = random_vector("v", [0, 2], site="resid_pre")
    expected = logits(faststeer.bake(tied(), vector))
    with torch.inference_mode():
        frozen = tied()
    faststeer.bake(frozen, vector)
    assert torch.equal(logits(frozen), expected)
    trainable = tied()
    with torch.inference_mode():
        faststeer.bake(trainable, vector)
    assert torch.equal(logits(trainable), expected)
    trainable(IDS).logits.sum().backward()
    assert trainable.model.layers[1].mlp.down_proj.bias.grad.abs().max() > 0


def test_every_row_of_a_large_embedding_changes(make_tiny) -> None:
    """An embedding that is processed in three parts."""
    model = make_tiny(vocab_size=5000)
    vector = random_vector("v", [0], site="resid_pre")
    expected = (model.model.embed_tokens.weight.double() + vector.directions[0].double()).float()
    faststeer.bake(model, vector)
    assert torch.equal(model.model.embed_tokens.weight, expected)


def test_merged_adapters_can_be_baked(make_tiny) -> None:
    peft = pytest.importorskip("peft")
    model = make_tiny()
    config = peft.LoraConfig(r=2, target_modules=["o_proj"], init_lora_weights=False)
    merged = peft.get_peft_model(model, config).merge_and_unload()
    vector = random_vector("v", [1], site="resid_mid")
    with faststeer.patch(merged) as patched:
        patched.steer(vector, 2.0)
        expected = logits(merged)
    assert near(logits(faststeer.bake(merged, vector, 2.0)), expected)
