"""Caps on a model, per token, against plain hooks; live bounds, rows and gradients."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from by_token import greedy, padded
from plain_hooks import random_vector
from tiny import make_tiny_model
from tiny_families import MORE
from torch import Tensor
from torch.nn.functional import normalize
from transformers import GPT2Config, GPT2LMHeadModel

import faststeer
from faststeer import FaststeerWarning, SteeringVector

IDS, MASK = padded((3, 7, 5))
D = normalize(torch.randn(64, generator=torch.Generator().manual_seed(7)), dim=0)
LAYERS = (0, 2)
VECTOR = SteeringVector("axis", dict.fromkeys(LAYERS, 5 * D))  # with any norm
REAL = MASK.bool()
Change = Callable[[Tensor], Tensor]


def held(h: Tensor, floor: float | None, ceiling: float | None, share: float = 1.0) -> Tensor:
    p = h @ D
    return h + share * (p.clamp(floor, ceiling) - p)[..., None] * D


def tiny(family: str) -> Any:
    if family == "GPT2":  # steered by hooks
        torch.manual_seed(0)
        facts = {"n_embd": 64, "n_layer": 4, "n_head": 4, "vocab_size": 512, "eos_token_id": None}
        return GPT2LMHeadModel(GPT2Config(**facts, initializer_range=0.1)).eval()
    return make_tiny_model(family=family, **MORE[family])


def blocks_of(model: Any) -> Any:
    return model.transformer.h if hasattr(model, "transformer") else model.model.layers


@contextmanager
def changed(model: Any, change: Change, layers: tuple[int, ...] = LAYERS) -> Iterator[None]:
    """Apply `change` to each layer's output ``[B, T, H]`` by hooks."""

    def hook(module: Any, args: Any, output: Any) -> Any:
        return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

    with ExitStack() as stack:
        for layer in layers:
            stack.callback(blocks_of(model)[layer].register_forward_hook(hook).remove)
        yield


def patch_quietly(model: Any) -> faststeer.Patched:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FaststeerWarning)  # of hooks
        return faststeer.patch(model)


def quantiles(model: Any) -> list[float]:
    """Return bounds below which a third, half and two thirds of the projections are."""
    seen: list[Tensor] = []
    with changed(model, lambda h: (seen.append((h @ D)[REAL]), h)[1]), torch.no_grad():
        model(IDS, attention_mask=MASK)
    return torch.cat(seen).quantile(torch.tensor([1 / 3, 1 / 2, 2 / 3])).tolist()


@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Gemma3", "GPT2"])
def test_caps_equal_a_hook_per_row_and_per_token_of_left_padded_prompts(family: str) -> None:
    model = tiny(family)
    low, middle, high = quantiles(model)
    uses = [
        ({"ceiling": middle}, (None, middle)),
        ({"floor": middle}, (middle, None)),
        ({"floor": low, "ceiling": high}, (low, high)),
        ({"floor": middle, "ceiling": middle}, (middle, middle)),
    ]
    with torch.inference_mode():
        plain = model(IDS, attention_mask=MASK).logits
        wanted = []
        for _, bounds in uses:
            with changed(model, lambda h, bounds=bounds: held(h, *bounds)):
                wanted.append(model(IDS, attention_mask=MASK).logits)
        with patch_quietly(model) as patched:
            idle = model(IDS, attention_mask=MASK).logits
            for (use, _), expected in zip(uses, wanted, strict=True):
                handle = patched.cap(VECTOR, **use)
                require_close(model(IDS, attention_mask=MASK).logits, expected, plain, REAL)
                handle.remove()
            patched.cap(VECTOR, ceiling=1e9)
            with patched.rows([{"axis": uses[3][0]}, {}, {"axis": uses[2][0]}]):
                found = model(IDS, attention_mask=MASK).logits
            assert torch.equal(found[1], idle[1])
            for row, expected in ((0, wanted[3]), (2, wanted[2])):
                require_close(found[row], expected[row], plain[row], REAL[row])


def rms(values: Tensor) -> float:
    return float(values.double().square().mean().sqrt())


def require_close(found: Tensor, expected: Tensor, plain: Tensor, real: Tensor) -> None:
    """Require what differs to be float32 rounding: of the effect, and of the logits themselves."""
    effect = rms((expected - plain)[real])
    assert effect > 1e-2
    assert rms((found - expected)[real]) <= 1e-6 * (effect + rms(expected[real]))


@pytest.fixture
def patched(tiny_model):
    with faststeer.patch(tiny_model) as handle, torch.inference_mode():
        yield handle


@pytest.mark.parametrize("positions", ["all", "generated"])
def test_cached_generation_is_capped_token_by_token(positions, tiny_model, patched, plain) -> None:
    low, _, high = quantiles(plain)
    patched.cap(VECTOR, floor=low, ceiling=high, positions=positions)
    tokens, scores = greedy(tiny_model, IDS, MASK)
    prompt = 0 if positions == "all" else IDS.shape[1]

    def change(h: Tensor) -> Tensor:
        return torch.cat([h[:, :prompt], held(h[:, prompt:], low, high)], 1)

    mask = torch.cat([MASK, torch.ones_like(tokens[:, MASK.shape[1] :])], 1)
    places = (mask.cumsum(1) - 1).clamp(min=0)

    def logits() -> Tensor:
        found = plain(tokens, attention_mask=mask, position_ids=places).logits
        return found[:, IDS.shape[1] - 1 : -1]

    unsteered = logits()
    with changed(plain, change):
        expected = logits()
    torch.testing.assert_close(scores, expected, rtol=0, atol=2e-5)
    assert (expected - unsteered).abs().max() > 1e-2


def test_caps_take_their_turn_after_additions_in_the_order_of_steering(
    tiny_model, patched, plain
) -> None:
    v = random_vector("v", [2])
    other = normalize(D + 0.5 * random_vector("o", [2]).directions[2], dim=0)
    patched.cap(SteeringVector("d", {2: D}), ceiling=0.5)
    patched.steer(v, 5.0)
    patched.steer(SteeringVector("o", {2: other}), 1.0, mode="project")

    def change(h: Tensor, first: Change) -> Tensor:
        h = first(h + 5.0 * v.directions[2])
        return h - (h @ other)[..., None] * other

    def with_cap(h: Tensor) -> Tensor:
        return change(h, lambda h: held(h, None, 0.5))

    with changed(plain, with_cap, (2,)):
        expected = plain(IDS).logits
    torch.testing.assert_close(tiny_model(IDS).logits, expected, rtol=0, atol=2e-5)
    with changed(plain, lambda h: change(h, lambda h: h), (2,)):
        assert not torch.allclose(plain(IDS).logits, expected, atol=1e-3)


def test_bounds_and_fraction_are_live_and_off_disables_them(tiny_model, patched) -> None:
    idle = tiny_model(IDS).logits
    vector = SteeringVector("d", {1: D, 2: D})
    handle = patched.cap(vector, ceiling={1: 0.1, 2: 0.2}, floor=-0.3)
    assert (handle.floor, handle.ceiling) == (-0.3, {1: 0.1, 2: 0.2})
    seen: dict[int, Tensor] = {}

    def note(layer: int, h: Tensor) -> None:
        seen[layer] = h @ D

    for site in handle.sites:
        patched.plan.tables[site].readers.append(partial(note, site.layer))

    def extremes() -> list[float]:
        tiny_model(IDS)
        return [round(float(x), 4) for n in (1, 2) for x in (seen[n].min(), seen[n].max())]

    assert extremes() == [-0.3, 0.1, -0.3, 0.2]
    handle.ceiling = 0.05
    handle.floor = {1: -0.1, 2: -0.2}
    assert extremes() == [-0.1, 0.05, -0.2, 0.05]
    with patched.rows([{"d": {"floor": 0.3}}]):
        assert extremes()[::2] == [0.3, 0.3]
    with patched.rows([{"d": {"floor": 0.3, "ceiling": {2: 0.4}}}]):
        assert extremes()[2:] == [0.3, 0.4]
        assert seen[1].min() < 0.3  # of a layer that the row does not name
    with patched.rows([{"d": {"floor": 9.0, "ceiling": 9.0, "fraction": 0.0}}]):
        assert torch.equal(tiny_model(IDS).logits, idle)
    handle.coefficient = 0.0
    assert torch.equal(tiny_model(IDS).logits, idle)
    handle.coefficient = 1.0
    with patched.off():
        assert torch.equal(tiny_model(IDS).logits, idle)
    assert "cap 1 (floor {1: -0.1, 2: -0.2}, ceiling 0.05) at layers 1–2" in repr(handle)


def test_compiled_models_follow_bounds_and_rows_without_recompiling(tiny_model, patched) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(tiny_model, fullgraph=True, backend="eager")
    handle = patched.cap(VECTOR, ceiling=0.1)
    compiled(IDS)
    with torch._dynamo.config.patch(error_on_recompile=True):
        handle.floor = -0.1
        torch.testing.assert_close(compiled(IDS).logits, tiny_model(IDS).logits)
        with patched.rows([{"axis": {"ceiling": -0.2}}, {}, {"axis": 0.5}]):
            torch.testing.assert_close(compiled(IDS).logits, tiny_model(IDS).logits)
    torch._dynamo.reset()


def test_gradients_of_a_capped_model_are_those_of_hooks(make_tiny) -> None:
    model, plain = make_tiny(), make_tiny()
    found, expected = ({}, {})
    for own, into in ((model, found), (plain, expected)):
        own.zero_grad()
        with ExitStack() as stack:
            if own is model:
                stack.enter_context(faststeer.patch(own)).cap(VECTOR, ceiling=0.1, floor=-0.2)
            else:
                stack.enter_context(changed(own, lambda h: held(h, -0.2, 0.1)))
            own(IDS, attention_mask=MASK).logits[REAL].square().mean().backward()
        into.update({name: one.grad for name, one in own.named_parameters()})
    for name, gradient in expected.items():
        size = float(gradient.abs().max())
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5 * size)
