"""The patched, idle model is as accurate as the stock model, on SmolLM2 and real prose."""

import copy
import math
import types

import pytest
import torch
from plain_hooks import hooked

import faststeer

TEXTS, TOKENS = 21, 200
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def passages(demo, prose):
    """Return at least 20 texts with at least 4,000 tokens in all, each the start of an article."""
    encoded = [demo.tokenizer(text, return_tensors="pt").input_ids[:, :TOKENS] for text in prose]
    chosen = [ids for ids in encoded if ids.shape[1] == TOKENS][:TEXTS]
    assert len(chosen) >= 20
    assert sum(ids.numel() for ids in chosen) >= 4000
    return chosen


@pytest.fixture(scope="module")
def truth(demo, passages):
    """Return logits in float64 with float64 norms: the stock norm always computes in float32."""

    def norm(self, hidden):
        scale = torch.rsqrt(hidden.square().mean(-1, keepdim=True) + self.variance_epsilon)
        return self.weight * (hidden * scale)

    exact = copy.deepcopy(demo.model).double()
    for module in exact.modules():
        if type(module).__name__ == "LlamaRMSNorm":
            module.forward = types.MethodType(norm, module)
    with torch.inference_mode():
        return [exact(ids).logits.float() for ids in passages]


def errors(model, passages, truth) -> list[float]:
    """Return the RMS error of each passage's logits."""
    with torch.inference_mode():
        return [
            math.sqrt((model(ids).logits.double() - exact.double()).square().mean())
            for ids, exact in zip(passages, truth, strict=True)
        ]


@pytest.mark.thorough
@pytest.mark.parametrize(("dtype", "limit"), [(torch.bfloat16, 1.00), (torch.float32, 1.02)])
def test_idle_errors_are_no_larger_than_the_stock_models(
    demo, passages, truth, figure, dtype, limit
) -> None:
    model = copy.deepcopy(demo.model).to(dtype)
    stock = errors(model, passages, truth)
    with faststeer.patch(model):
        patched = errors(model, passages, truth)
    ratios = [math.log(one / other) for one, other in zip(patched, stock, strict=True)]
    ratio = math.exp(sum(ratios) / len(ratios))
    figure(
        f"idle parity on SmolLM2, {dtype}: logit error {ratio:.4f} times stock's (limit {limit}), "
        f"{sum(ids.numel() for ids in passages)} tokens in {len(passages)} texts"
    )
    assert ratio <= limit


def greedy(model, ids, mask) -> torch.Tensor:
    return model.generate(
        input_ids=ids, attention_mask=mask, max_new_tokens=128, do_sample=False, pad_token_id=2
    )


@pytest.mark.thorough
def test_128_greedy_tokens_equal_stocks_on_20_prompts(demo, prose) -> None:
    """Nine in a left-padded batch, ten in a batch without padding, one alone."""
    encoded = [demo.tokenizer(text).input_ids for text in prose[:20]]
    lengths = [4, 30, 7, 12, 21, 9, 16, 5, 14]
    batch = [ids[:length] for ids, length in zip(encoded, lengths, strict=False)]
    longest = max(lengths)
    ids = torch.tensor([[2] * (longest - len(own)) + own for own in batch])
    mask = torch.tensor([[0] * (longest - len(own)) + [1] * len(own) for own in batch])
    calls = [(ids, mask)]
    for several in (encoded[9:19], encoded[19:20]):
        ids = torch.tensor([own[:12] for own in several])
        calls.append((ids, torch.ones_like(ids)))
    assert sum(len(ids) for ids, _ in calls) == 20
    stock = [greedy(demo.model, *call) for call in calls]
    with faststeer.patch(demo.model):
        patched = [greedy(demo.model, *call) for call in calls]
    for one, other in zip(patched, stock, strict=True):
        assert torch.equal(one, other)


def test_steering_smollm2_equals_hooks_and_leaves_no_trace(demo, passages) -> None:
    generator = torch.Generator().manual_seed(0)
    layers = [4, 11, 12, 29]
    directions = {n: torch.randn(576, generator=generator) / 24 for n in layers}
    vector = faststeer.SteeringVector("random", directions)
    ids = torch.cat(passages[:2])[:, :48]
    with torch.inference_mode():
        stock = demo.model(ids).logits
        with hooked(demo.model.model, [(vector, 20.0, layers)]):
            expected = demo.model(ids).logits
        with faststeer.patch(demo.model) as patched:
            patched.steer(vector, 20.0)
            found = demo.model(ids).logits
        assert torch.equal(demo.model(ids).logits, stock)
    effect = (expected - stock).square().mean().sqrt()
    assert effect > 0.1
    assert (found - expected).square().mean().sqrt() < 1e-4 * effect
