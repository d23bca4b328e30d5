"""Common norms of several vectors, and whitened coordinates."""

from __future__ import annotations

import pytest
import torch

import faststeer
from faststeer import SteeringVector
from faststeer.vectors.aggregate import common_norms
from faststeer.vectors.random import random_like

A = SteeringVector("a", {0: torch.tensor([3.0, 4.0]), 1: torch.tensor([0.0, 2.0])})
B = SteeringVector("b", {0: torch.tensor([0.0, 1.0]), 2: torch.tensor([5.0, 0.0])})


def test_behaviours_get_the_mean_of_their_norms_at_each_layer() -> None:
    norms = common_norms([A, B])
    assert norms == {0: 3.0, 1: 2.0, 2: 5.0}
    scaled = A.with_norms(norms)
    assert scaled.norms() == pytest.approx({0: 3.0, 1: 2.0})
    torch.testing.assert_close(scaled.directions[0], torch.tensor([1.8, 2.4]))
    assert B.with_norms(7.0).norms() == pytest.approx({0: 7.0, 2: 7.0})


def test_whitening_divides_by_standard_deviations_and_keeps_the_norm() -> None:
    moments = faststeer.Moments(2)
    moments.update(torch.tensor([[1.0, 8.0], [-1.0, -8.0]]))
    white = A.select([0]).whitened({0: moments.variance[0]})
    wanted = torch.tensor([3.0, 0.5])
    torch.testing.assert_close(white.directions[0], wanted * 5 / wanted.norm())


def test_a_random_baseline_has_the_vector_s_norms_and_site() -> None:
    vector = SteeringVector("v", {n: torch.randn(64) for n in range(3)}, "resid_mid")
    random = random_like(vector, seed=1)
    assert random.norms() == pytest.approx(vector.norms())
    assert random.site == "resid_mid"
    for layer, direction in random.directions.items():
        assert abs(torch.cosine_similarity(direction, vector.directions[layer], dim=0)) < 0.5


def test_mismatched_norms_and_variances_are_refused() -> None:
    with pytest.raises(ValueError, match="no norm is given for layer 1"):
        A.with_norms({0: 1.0})
    with pytest.raises(ValueError, match="a zero cannot be normalised"):
        (A * 0).with_norms(1.0)
    for variances in ({}, {0: torch.ones(3)}, {0: torch.tensor([1.0, 0.0])}):
        with pytest.raises(ValueError, match="layer 0: expected 2 variances above 0"):
            A.whitened(variances)
