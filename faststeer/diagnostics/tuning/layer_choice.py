"""Which layer of a vector does most within a budget: predicted for all, measured for the best."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from faststeer.diagnostics.tuning.budget import Budget
from faststeer.diagnostics.tuning.parts import Part
from faststeer.diagnostics.tuning.search import best_within, strongest
from faststeer.diagnostics.tuning.slopes import Place, differentiable, slopes_at
from faststeer.vectors.steering_vector import SteeringVector

_ROUNDS = 4  # of the search for the strongest coefficient
_FRACTIONS = (0.4, 0.7, 1.0)  # of it: more is not always more effect
_DOSE = 0.1  # of the stream's norm, at which layers are measured where there are no gradients
_DRAWS = 2  # of tokens, per text


@dataclass(frozen=True)
class PlaceEffect:
    """A place with a coefficient that keeps to the budget, and the effect there in nats."""

    place: Place
    coefficient: float
    effect: float


def predict(
    part: Part,
    budget: Budget,
    places: Sequence[Place],
    norms: Mapping[int, float],
    seed: int,
) -> list[PlaceEffect]:
    """Return what each place promises, the best first.

    Effects are measured: at the coefficients that use up a budget they are far from linear, and in
    early layers less than half of what their slopes at 0 promise.

    Args:
        part: of screening, with one vector.
        budget: what neutral text may lose.
        places: layers of the vector.
        norms: of the stream, by layer.
        seed: draws the tokens of the curvature.
    """
    subject = part.subject
    layers = sorted(place.layer for place in places)
    if differentiable(subject.patched, part.vectors, subject.model):
        with slopes_at(subject, part.vectors, places) as slopes:
            generator = torch.Generator().manual_seed(seed)
            curvature = slopes.curvature(part.texts, _DRAWS, generator).diagonal()
        coefficients = (2 * budget.nats / curvature.clamp(min=1e-12)).sqrt().tolist()
    else:
        with part.steered([layers]):
            coefficients = _of_a_weak_dose(part, budget, places, norms)
    most = most_of(part.vectors[0], [place.layer for place in places], norms)
    coefficients = list(map(min, coefficients, most))
    with part.steered([layers]):
        effects = _effects(part, places, coefficients)
    found = map(PlaceEffect, places, coefficients, effects)
    return sorted(found, key=lambda one: -one.effect)


def most_of(
    vector: SteeringVector, layers: Sequence[int], norms: Mapping[int, float]
) -> list[float]:
    """Return the coefficients at which a vector is as long as the stream's median norm."""
    own = vector.norms()
    return [norms[layer] / own[layer] if own[layer] else 1.0 for layer in layers]


def _effects(part: Part, places: Sequence[Place], coefficients: Sequence[float]) -> list[float]:
    settings = [{p: part.sign * c} for p, c in zip(places, coefficients, strict=True)]
    return [float(effect) for effect in part.mean_effects(settings)[:, 0]]


def _of_a_weak_dose(
    part: Part, budget: Budget, places: Sequence[Place], norms: Mapping[int, float]
) -> list[float]:
    """Return the coefficients that use up the budget, from what a weak dose at each place uses."""
    whole = most_of(part.vectors[0], [place.layer for place in places], norms)
    weak = [_DOSE * c for c in whole]
    used = part.used(budget, [{p: part.sign * c} for p, c in zip(places, weak, strict=True)])
    return [c / math.sqrt(max(share, 1e-4)) for c, share in zip(weak, used, strict=True)]


def best_alone(
    part: Part, budget: Budget, predictions: Sequence[PlaceEffect], norms: Mapping[int, float]
) -> list[PlaceEffect]:
    """Measure places within the budget, and return them, the one of most effect first.

    No dose is above the stream's own norm: where positions are few, neutral text may lose nothing.

    Raises:
        ValueError: no coefficient of any of them keeps to the budget.
    """
    places = [own.place for own in predictions]

    def used(asked: list[tuple[int, float]]) -> list[float]:
        return part.used(budget, [{places[line]: part.sign * c} for line, c in asked])

    most = most_of(part.vectors[0], [place.layer for place in places], norms)
    known = strongest(used, [own.coefficient for own in predictions], _ROUNDS, most)
    limits = {
        place: limit
        for place, own in zip(places, known, strict=True)
        if (limit := best_within(own)) is not None
    }
    if not limits:
        raise ValueError(f"no coefficient that was tried keeps to the budget ({budget})")
    lines = [(place, limit * f) for place, limit in limits.items() for f in _FRACTIONS]
    moved = part.mean_effects([{place: part.sign * c} for place, c in lines])
    found: dict[Place, PlaceEffect] = {}
    for (place, c), effects in zip(lines, moved, strict=True):
        effect = float(effects[place.vector])
        if place not in found or effect > found[place].effect:
            found[place] = PlaceEffect(place, c, effect)
    best = sorted(found.values(), key=lambda own: -own.effect)
    if math.isinf(best[0].effect):
        raise ValueError(
            f"the items' scores are not finite at any setting of the budget ({budget})"
        )
    return best
