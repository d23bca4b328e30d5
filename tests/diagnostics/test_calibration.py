"""Calibration of coefficients to a divergence: the divergence, the search, and both on models."""

from __future__ import annotations

import math
import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from plain_hooks import hooked, random_vector
from tiny import ByteTokenizer
from torch import Tensor
from transformers import LlamaForCausalLM

import faststeer
from faststeer import FaststeerWarning, SteeringVector, diagnostics
from faststeer.data.shipped import Behaviour
from faststeer.diagnostics.root_search import LARGEST, falls, first_crossing, nearest
from faststeer.models.loading import Loaded

TEXTS = ["The lighthouse stands on a hill.", "Basalt is a rock.", "x"]


def slow_divergence(
    model: LlamaForCausalLM, tokenizer: ByteTokenizer, vector: SteeringVector, coefficient: float
) -> float:
    """Return the divergence with plain hooks, one text at a time, in float64."""
    each: list[Tensor] = []
    for text in TEXTS:
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.no_grad():
            plain = model(ids).logits[0].double().softmax(-1)
            with hooked(model.model, [(vector, coefficient, vector.layers)]):
                steered = model(ids).logits[0].double().softmax(-1)
        each.append((plain * (plain / steered).log()).sum(-1)[:-1])
    return float(torch.cat(each).mean())


@pytest.mark.parametrize("target", [1e-3, 0.1, 0.5])
@pytest.mark.parametrize("opposite", [False, True])
def test_the_calibrated_coefficient_has_the_target_s_divergence_by_plain_hooks(
    tiny_model: LlamaForCausalLM,
    plain: LlamaForCausalLM,
    byte_tokenizer: ByteTokenizer,
    target: float,
    opposite: bool,
) -> None:
    vector = random_vector("v", [1])
    found = diagnostics.calibrate(
        tiny_model, byte_tokenizer, vector, target, texts=TEXTS, opposite=opposite
    )
    assert (found.coefficient < 0) == opposite
    slow = slow_divergence(plain, byte_tokenizer, vector, found.coefficient)
    assert slow == pytest.approx(target, rel=0.025)
    assert found.divergence == found.measured[found.coefficient]


def test_calibration_leaves_the_model_unchanged(
    tiny_model: LlamaForCausalLM, byte_tokenizer: ByteTokenizer
) -> None:
    stock = type(tiny_model.model.layers[0])
    vector = random_vector("v", [1])
    found = diagnostics.calibrate(tiny_model, byte_tokenizer, vector, 0.1, texts=TEXTS)
    assert type(tiny_model.model.layers[0]) is stock
    with faststeer.patch(tiny_model) as patched:
        patched.steer(random_vector("other", [0], seed=1), 3.0)
        again = diagnostics.calibrate(tiny_model, byte_tokenizer, vector, 0.1, texts=TEXTS)
        assert [handle.name for handle in patched.handles] == ["other"]
        with pytest.raises(ValueError, match="is not reached"):
            diagnostics.calibrate(tiny_model, byte_tokenizer, vector, 1e9, texts=TEXTS)
        assert [handle.name for handle in patched.handles] == ["other"]
    assert again == found  # other steering is off


def test_an_unreachable_target_is_reported_with_the_largest_divergence_found(
    tiny_model: LlamaForCausalLM, byte_tokenizer: ByteTokenizer
) -> None:
    with pytest.raises(ValueError, match=r"the target 1e\+09 is not reached: the largest found is"):
        diagnostics.calibrate(tiny_model, byte_tokenizer, random_vector("v", [1]), 1e9, texts=TEXTS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": 0.0}, "target is 0; expected a finite number above 0"),
        ({"target": math.inf}, "target is inf; expected"),
        ({"tolerance": -1.0}, "tolerance is -1; expected"),
        ({"texts": []}, r"texts is \[\]; expected several"),
        ({"texts": ["a", ""]}, "text 1 has 1 tokens, of which none is predicted"),
        ({"texts": "one text"}, "texts is 'one text'; expected several"),
        ({"texts": ["a" * 1024], "max_length": None}, "the model's context is 1024"),
        ({"layers": [2]}, "no direction for layer 2"),
    ],
)
def test_what_cannot_be_calibrated_is_refused_with_a_clear_error(
    tiny_model: LlamaForCausalLM,
    byte_tokenizer: ByteTokenizer,
    arguments: dict[str, object],
    message: str,
) -> None:
    given: dict[str, object] = {"target": 0.1, "texts": TEXTS} | arguments
    with pytest.raises(ValueError, match=message):
        diagnostics.calibrate(tiny_model, byte_tokenizer, random_vector("v", [1]), **given)


def test_an_iterator_of_texts_calibrates_like_a_list(
    tiny_model: LlamaForCausalLM, byte_tokenizer: ByteTokenizer
) -> None:
    vector = random_vector("v", [1])
    listed = diagnostics.calibrate(tiny_model, byte_tokenizer, vector, 0.1, texts=TEXTS)
    streamed = diagnostics.calibrate(tiny_model, byte_tokenizer, vector, 0.1, texts=iter(TEXTS))
    assert streamed == listed


def test_a_model_that_is_not_finite_without_steering_is_reported_at_once(
    tiny_model: LlamaForCausalLM, byte_tokenizer: ByteTokenizer
) -> None:
    with torch.no_grad():
        tiny_model.model.norm.weight.fill_(math.nan)
    with pytest.raises(ValueError, match="the unsteered model's logits are not finite"):
        diagnostics.calibrate(tiny_model, byte_tokenizer, random_vector("v", [1]), 0.1, texts=TEXTS)


class Counted:
    """A function of a coefficient that counts its calls."""

    def __init__(self, function) -> None:
        self.function = function
        self.rounds = 0

    def __call__(self, coefficients: list[float]) -> list[float]:
        self.rounds += 1
        return [self.function(coefficient) for coefficient in coefficients]


@pytest.mark.parametrize("scale", [1e-6, 0.01, 1.0, 300.0])
def test_a_parabola_s_crossing_is_found_whatever_its_scale_in_a_few_rounds(scale: float) -> None:
    measure = Counted(lambda c: (c / scale) ** 2)
    known = first_crossing(measure, 0.1, 0.02)
    assert nearest(known, 0.1) == pytest.approx(scale * 0.1**0.5, rel=0.01)
    assert measure.rounds <= 5
    assert falls(known, 0.0) == []


def test_of_several_crossings_the_smallest_is_found_and_the_decrease_is_reported() -> None:
    def bump(c: float) -> float:  # rises to 1 at 0.5, falls to 0 at 1, and rises for good
        return math.sin(math.pi * c) ** 2 if c < 1 else (c - 1) ** 2

    known = first_crossing(Counted(bump), 0.5, 0.001)
    assert nearest(known, 0.5) == pytest.approx(0.25, rel=0.01)
    assert falls(known, 0.01) == [(0.5, 1.0)]


def test_a_value_that_is_not_finite_counts_as_too_much() -> None:
    known = first_crossing(Counted(lambda c: c**2 if c < 0.3 else math.nan), 0.04, 0.01)
    assert nearest(known, 0.04) == pytest.approx(0.2, rel=0.01)


def test_a_step_over_the_target_ends_the_search_at_the_step() -> None:
    measure = Counted(lambda c: 0.0 if c < 3.1 else 5.0)
    known = first_crossing(measure, 1.0, 0.01)
    assert nearest(known, 1.0) == pytest.approx(3.1, rel=1e-4)
    assert measure.rounds < 25


def test_a_function_that_stays_low_ends_the_search() -> None:
    measure = Counted(lambda c: min(c, 0.5))
    with pytest.raises(ValueError, match=r"the largest found is 0\.5, at coefficient 0\.5, and"):
        first_crossing(measure, 1.0, 0.01)
    assert measure.rounds <= 8
    assert LARGEST == 2**24


def test_a_divergence_that_decreases_gives_a_warning(
    tiny_model: LlamaForCausalLM, byte_tokenizer: ByteTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from faststeer.diagnostics import calibration

    def falling(patched, model, tokenizer, texts, settings, **rest) -> tuple[Any, list[Any]]:
        coefficients = [next(iter(setting.values())) for setting in settings]
        unsteered = SimpleNamespace(surprise=torch.zeros(1))
        return unsteered, [SimpleNamespace(kl=c if c < 0.9 else 0.3) for c in coefficients]

    monkeypatch.setattr(calibration, "token_scores_by_setting", falling)
    with pytest.warns(FaststeerWarning, match="it falls from 0.5 at 0.5 to 0.3 at 1; 0.4"):
        found = diagnostics.calibrate(
            tiny_model, byte_tokenizer, random_vector("v", [1]), 0.4, texts=TEXTS
        )
    assert found.falls == [(0.5, 1.0)]


def test_the_demo_s_vector_is_calibrated_without_a_warning(demo: Loaded, figure) -> None:
    behaviour = Behaviour.shipped("sentiment")
    vector = faststeer.extract(
        demo.model, demo.tokenizer, behaviour.pairs, layers=behaviour.layer, progress=False
    )
    texts = ["A lighthouse is a tower that emits light."]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = diagnostics.calibrate(demo.model, demo.tokenizer, vector, 0.1, texts=texts)
    figure(f"sentiment at layer 23: 0.1 nats at coefficient {found.coefficient:.2f}")
    assert found.divergence == pytest.approx(0.1, rel=0.02)
    assert 0.2 < found.coefficient < 3
