"""Coefficients of several places together, by exact gradients within a budget.

What is raised is the product of the vectors' effects (Nash 1950), which no vector can be sacrificed
for. Near given coefficients, an effect is linear and the divergence quadratic in them, so the best
coefficients of a budget are known in closed form; each step goes part of the way there, and is kept
if it is measured to be better.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from faststeer.diagnostics.tuning.budget import Budget
from faststeer.diagnostics.tuning.layer_choice import PlaceEffect
from faststeer.diagnostics.tuning.objectives import TextObjective
from faststeer.diagnostics.tuning.parts import Part, Setting
from faststeer.diagnostics.tuning.search import best_within, strongest
from faststeer.diagnostics.tuning.slopes import Place, Slopes, differentiable, slopes_at

_STEPS = 3
_SHARES = (0.35, 0.7)  # of the way to the closed-form optimum
_LEAST = 0.05  # of a vector's effect alone, below which its weight no longer grows
_DRAWS = 3
_ROUNDS = 3


def tune_together(part: Part, budget: Budget, alone: Sequence[PlaceEffect], seed: int) -> Setting:
    """Return coefficients of places that together do most within the budget.

    Args:
        part: of choosing; its handles are at the places.
        budget: what neutral text may lose.
        alone: the places, each as measured alone; every vector has at least one.
        seed: draws the tokens of the curvature.

    Raises:
        ValueError: no coefficients that were tried keep to the budget.
    """
    places = [own.place for own in alone]
    reference = torch.zeros(len(part.vectors), dtype=torch.float64)
    for own in alone:
        reference[own.place.vector] = max(float(reference[own.place.vector]), own.effect)
    reference = reference.clamp(min=1e-9)
    together = part.sign * torch.tensor([own.coefficient for own in alone], dtype=torch.float64)
    coefficients = _scaled(part, budget, places, together / math.sqrt(len(alone)))
    if coefficients is None:
        raise ValueError(f"no coefficients that were tried keep to the budget ({budget})")
    effects = part.mean_effects([_setting(places, coefficients)])[0]
    if not _has_gradients(part):
        return _setting(places, coefficients)
    with slopes_at(part.subject, part.vectors, places) as slopes:
        generator = torch.Generator().manual_seed(seed)
        curvature = slopes.curvature(part.texts, _DRAWS, generator)
    for _ in range(_STEPS):
        weights = 1 / torch.maximum(effects, _LEAST * reference)
        with slopes_at(part.subject, part.vectors, places) as slopes:
            gradient = _gradient(part, slopes, coefficients, weights)
        goal = _best_of_budget(gradient, curvature, budget.nats)
        tried = [
            found
            for share in _SHARES
            if (found := _scaled(part, budget, places, torch.lerp(coefficients, goal, share)))
            is not None
        ]
        if not tried:
            break
        moved = part.mean_effects([_setting(places, own) for own in tried])
        better = max(range(len(tried)), key=lambda n: _product(moved[n], reference))
        if _product(moved[better], reference) <= _product(effects, reference):
            break
        coefficients, effects = tried[better], moved[better]
    return _setting(places, coefficients)


def _has_gradients(part: Part) -> bool:
    by_texts = all(isinstance(own, TextObjective) for own in part.objectives)
    subject = part.subject
    return by_texts and differentiable(subject.patched, part.vectors, subject.model)


def _gradient(part: Part, slopes: Slopes, coefficients: Tensor, weights: Tensor) -> Tensor:
    """Return the gradient of the weighted sum of effects."""
    slopes.set(coefficients.tolist())
    total = torch.zeros_like(coefficients)
    for objective, weight in zip(part.objectives, weights, strict=True):
        assert isinstance(objective, TextObjective)
        total += weight * part.sign * slopes.effect(objective)
    return total


def _best_of_budget(gradient: Tensor, curvature: Tensor, nats: float) -> Tensor:
    """Return the coefficients that raise a linear effect most at a quadratic divergence."""
    ridge = 0.02 * curvature.diagonal().diag_embed()  # the curvature is an estimate
    # Of a direction of zeros nothing is known, and nothing depends on it.
    ridge += 1e-9 * curvature.diagonal().max().clamp(min=1e-12) * torch.eye(len(gradient))
    goal: Tensor = torch.linalg.solve(curvature + ridge, gradient)
    divergence = 0.5 * float(goal @ curvature @ goal)
    return goal * math.sqrt(nats / divergence) if divergence > 0 else goal


def _scaled(part: Part, budget: Budget, places: Sequence[Place], towards: Tensor) -> Tensor | None:
    """Return the multiple of coefficients that uses up the budget, None if none is found."""

    def used(asked: list[tuple[int, float]]) -> list[float]:
        return part.used(budget, [_setting(places, scale * towards) for _, scale in asked])

    scale = best_within(strongest(used, [1.0], _ROUNDS)[0])
    return None if scale is None else scale * towards


def _setting(places: Sequence[Place], coefficients: Tensor) -> Setting:
    return dict(zip(places, coefficients.tolist(), strict=True))


def _product(effects: Tensor, reference: Tensor) -> float:
    """Return the logarithm of the product of effects, as shares of those alone."""
    return float((effects / reference).clamp(min=1e-6).log().sum())
