"""Every fused family is baked where its biases allow it, and refused with the reason elsewhere."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from baking import IDS, SITES, near
from plain_hooks import random_vector
from tiny_families import MORE
from torch import Tensor
from transformers import AutoModelForCausalLM

import faststeer

BOTH, ATTENTION = ("resid_mid", "resid_post"), ("resid_mid",)
# The sites of a layer at which a family takes an addition; the embedding takes one in all of them.
TAKES = {"Llama": BOTH, "SmolLM3": BOTH, "Qwen3": ATTENTION, "Qwen3Moe": ATTENTION}
TAKES["Gemma"] = ATTENTION
NORMED = ("Gemma2", "Gemma3")


def logits(model: Any) -> Tensor:
    with torch.inference_mode():
        found: Tensor = model(IDS).logits
    return found


@pytest.fixture(params=MORE)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("site", SITES)
def test_an_addition_is_baked_where_a_bias_can_be(make_tiny, tmp_path, family, site) -> None:
    model = make_tiny(family=family, **MORE[family])
    vector = random_vector("v", [0 if site == "resid_pre" else 2], site=site)
    idle = logits(model)
    with faststeer.patch(model) as patched:
        patched.steer(vector, 2.0)
        expected = logits(model)
    if site != "resid_pre" and site not in TAKES.get(family, ()):
        reason = "has no (attention|mlp)_bias, so a bias would be lost on loading"
        if family in NORMED:
            reason = "a norm without a bias stands before that site"
        with pytest.raises(ValueError, match=f"takes no addition at {site}: .*{reason}"):
            faststeer.bake(model, vector, 2.0)
        assert torch.equal(logits(model), idle)
        return
    assert (expected - idle).abs().max() > 0.1
    found = logits(faststeer.bake(model, vector, 2.0))
    assert near(found, expected)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert torch.equal(logits(loaded), found)


def test_an_ablation_is_baked_unless_a_norm_follows(make_tiny, tmp_path, family) -> None:
    model = make_tiny(family=family, **MORE[family])
    vector = random_vector("v", [1, 2]) * 3.0
    idle, before = logits(model), copy.deepcopy(model.state_dict())
    if family in NORMED:
        with pytest.raises(ValueError, match=f"in a {family}ForCausalLM a norm follows what"):
            faststeer.bake(model, vector, layers=2, mode="ablate")
        assert all(torch.equal(model.state_dict()[key], own) for key, own in before.items())
        return
    with faststeer.patch(model) as patched:
        patched.ablate(vector, layer=2)
        expected = logits(model)
    assert (expected - idle).abs().max() > 0.1
    head = model.lm_head.weight.detach().clone()
    found = logits(faststeer.bake(model, vector, layers=2, mode="ablate"))
    assert near(found, expected)
    assert torch.equal(model.lm_head.weight, head)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert torch.equal(logits(loaded), found)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_an_addition_to_a_scaled_embedding_arrives_unscaled(make_tiny, dtype) -> None:
    """Gemma multiplies embeddings by the root of the hidden size, in the weights' dtype."""
    model = make_tiny(dtype, family="Gemma", hidden=72, **MORE["Gemma"])
    stream: list[Tensor] = []
    model.model.layers[0].register_forward_pre_hook(lambda _, args: stream.append(args[0].float()))
    vector = random_vector("v", [0], 72, site="resid_pre")
    logits(model)
    logits(faststeer.bake(model, vector, 3.0))
    moved = stream[1] - stream[0] - 3.0 * vector[0]
    assert moved.abs().max() < 2 * torch.finfo(dtype).eps * stream[1].abs().max()
