"""Effects at equal tax: straight lines between strengths, and paired draws."""

from __future__ import annotations

import pytest
import torch

from faststeer import SteeringVector
from faststeer.evaluate.records import key_of
from faststeer.experiments.settings import ADD, SUBTRACT, Place
from faststeer.experiments.traits.equal_tax import Comparison, Draws, at_cost, estimate_of
from faststeer.experiments.traits.vectors import orthogonalised, random_directions
from faststeer.experiments.traits.ways import ORTHOGONAL, Way, common_way, tuned_way


def test_between_strengths_a_value_lies_on_a_straight_line() -> None:
    costs = torch.tensor([[0.02], [0.10], [0.30]], dtype=torch.float64)
    values = torch.tensor([[0.2], [0.6], [0.5]], dtype=torch.float64)
    found = [float(at_cost(costs, values, cost)[0]) for cost in (0.0, 0.01, 0.02, 0.06, 0.2, 0.9)]
    assert found == pytest.approx([0.0, 0.1, 0.2, 0.4, 0.55, 0.5])


def test_a_stronger_setting_never_counts_as_cheaper() -> None:
    """A tax that falls by chance would let an expensive strength pass for free."""
    costs = torch.tensor([[0.08], [0.04], [0.2]], dtype=torch.float64)
    values = torch.tensor([[0.3], [0.5], [0.9]], dtype=torch.float64)
    assert float(at_cost(costs, values, 0.05)[0]) == pytest.approx(0.3 * 5 / 8)
    assert float(at_cost(costs, values, 0.08)[0]) == pytest.approx(0.5)


def test_a_strength_without_any_cost_is_free() -> None:
    costs = torch.tensor([[-0.01], [0.0]], dtype=torch.float64)
    values = torch.tensor([[0.3], [0.5]], dtype=torch.float64)
    assert float(at_cost(costs, values, 0.05)[0]) == 0.5


def record(positive: list[float]) -> dict:
    probabilities = torch.tensor(positive, dtype=torch.float64)
    logs = {"log_positive": probabilities.log(), "log_negative": (1 - probabilities).log()}
    return {"items": {"t": {name: own.tolist() for name, own in logs.items()}}}


def text(correct: list[int]) -> dict:
    names = ("tokens", "top10", "surprise", "divergence")
    return {"items": {"text": {"top1": correct, **{name: [10] * len(correct) for name in names}}}}


WEAK, STRONG = ({"t": {1: 0.5}}, {"t": {1: -0.5}}), ({"t": {1: 1.0}}, {"t": {1: -1.0}})
WAY = Way("both", ["t"], [0.5, 1.0], [WEAK, STRONG])


@pytest.fixture
def compared() -> Comparison:
    prompts = {
        key_of(WEAK[0]): record([0.6, 0.8]),
        key_of(WEAK[1]): record([0.4, 0.6]),
        key_of(STRONG[0]): record([0.9, 0.9]),
        key_of(STRONG[1]): record([0.1, 0.3]),
    }
    texts = {
        key_of({}): text([50, 50]),
        key_of(WEAK[0]): text([50, 48]),
        key_of(WEAK[1]): text([49, 49]),
        key_of(STRONG[0]): text([45, 45]),
        key_of(STRONG[1]): text([45, 45]),
    }
    return Comparison({"t": prompts}, texts, Draws({"t": 2}, 2))


def test_a_ways_tax_and_effect_are_those_of_both_directions(compared: Comparison) -> None:
    assert compared.taxes(WAY)[:, 0].tolist() == pytest.approx([0.02, 0.1])
    assert compared.effects(WAY)["t"][:, 0].tolist() == pytest.approx([0.2, 0.7])
    assert float(compared.mean_at(WAY, 0.06)[0]) == pytest.approx(0.45)
    assert compared.strength_at(WAY, 0.06) == pytest.approx(0.75)
    assert compared.strength_at(WAY, 0.5) == 1.0
    drawn = compared.mean_at(WAY, 0.06)
    estimate = estimate_of(drawn)
    assert estimate.low < estimate.value < estimate.high
    same = estimate_of(drawn - compared.mean_at(WAY, 0.06))
    assert same == (0, 0, 0)


def test_an_undefined_probability_is_even(compared: Comparison) -> None:
    broken = {"items": {"t": {"log_positive": [None, None], "log_negative": [None, None]}}}
    compared.prompts["t"][key_of(STRONG[0])] = broken
    assert compared.effects(WAY)["t"][1, 0] == pytest.approx(0.5 - 0.2)


def test_ways_scale_tuned_coefficients_or_share_one() -> None:
    tuned = {
        Place(name, layer, direction): sign * c
        for name, layer, c in (("a", 1, 2.0), ("b", 3, 4.0))
        for direction, sign in ((ADD, 1), (SUBTRACT, -1))
    }
    way = tuned_way("w", {"a": 1, "b": 3}, tuned, [0.5, 1.0], {"a": 0.0})
    assert way.settings[0] == ({"b": {3: 2.0}}, {"b": {3: -2.0}})
    other = tuned_way("w", {"a": 1, "b": 3}, tuned, [1.0], suffix=ORTHOGONAL)
    assert other.settings[0][1] == {"a, orthogonal": {1: -2.0}, "b, orthogonal": {3: -4.0}}
    assert common_way("w", {"a": 1, "b": 3}, [2.0]).settings == [
        ({"a": {1: 2.0}, "b": {3: 2.0}}, {"a": {1: -2.0}, "b": {3: -2.0}})
    ]


def test_orthogonalised_vectors_keep_their_norms_and_stay_nearest(seeded) -> None:
    common = torch.randn(32)
    vectors = {
        name: SteeringVector(name, {n: torch.randn(32) * 2 + common for n in (1, 4)})
        for name in "abc"
    }
    found = {own.name.removesuffix(ORTHOGONAL): own for own in orthogonalised(vectors)}
    for layer in (1, 4):
        own = torch.stack([found[name].directions[layer] for name in vectors])
        given = torch.stack([vectors[name].directions[layer] for name in vectors])
        norms = given.norm(dim=1)
        torch.testing.assert_close(own @ own.T, torch.diag(norms**2), atol=1e-3, rtol=1e-5)
        unit = torch.nn.functional.normalize(given, dim=1)
        distance = (own / norms[:, None] - unit).norm()
        one_by_one, _ = torch.linalg.qr(unit.T)  # Gram and Schmidt's, with either sign
        signed = one_by_one * (one_by_one * unit.T).sum(0).sign()
        assert distance < (signed - unit.T).norm() - 1e-3
    same = dict.fromkeys("ab", vectors["a"])
    with pytest.raises(ValueError, match="a, b are linearly dependent at layer 1"):
        orthogonalised(same)


def test_random_directions_have_the_norm_and_are_the_same_in_every_run(seeded) -> None:
    vector = SteeringVector("v", {1: torch.randn(16), 2: torch.randn(16)})
    first, again = (random_directions(vector, 2, 3) for _ in range(2))
    assert [own.name for own in first] == ["v, random 0", "v, random 1", "v, random 2"]
    for own, other in zip(first, again, strict=True):
        assert torch.equal(own.directions[2], other.directions[2])
        assert own.norms()[2] == pytest.approx(vector.norms()[2])
    assert not torch.equal(first[0].directions[2], first[1].directions[2])
