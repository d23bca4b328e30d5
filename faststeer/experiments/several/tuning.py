"""Each vector alone: the coefficients that do most, chosen on questions kept for that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from faststeer.evaluate.records import Record, key_of
from faststeer.evaluate.sweeping import grid
from faststeer.experiments.several.asked import Asked
from faststeer.experiments.several.measuring import Bench, Found
from faststeer.experiments.several.scored import PROBABILITY, SCORE, is_sound
from faststeer.experiments.several.settings import (
    ADD,
    DIRECTIONS,
    SUBTRACT,
    UNSTEERED,
    Place,
    alone,
)
from faststeer.vectors.steering_vector import SteeringVector


def measured_alone(
    bench: Bench,
    asked: Sequence[Asked],
    vectors: Mapping[str, SteeringVector],
    layers: Sequence[int],
    coefficients: Sequence[float],
) -> dict[str, Found]:
    """By behaviour, its own vector at every layer and coefficient, on the validation part."""
    return {
        own.name: bench.lines(
            "validation",
            own.name,
            own.validation,
            grid([vectors[own.name]], layers, coefficients),
        )
        for own in asked
    }


def tuned(
    found: Mapping[str, Found], layers: Sequence[int], coefficients: Sequence[float]
) -> dict[Place, float]:
    """The coefficient at each place that moves the score furthest in its direction.

    Settings that make answers collapse or fault count only where there are no others. Of equal
    scores the one with the further probability is taken, then the smaller coefficient.
    """
    chosen = {}
    for name, records in found.items():
        for layer in layers:
            for direction in DIRECTIONS:
                sign = 1 if direction == ADD else -1
                own = {c: key_of(alone(name, layer, c)) for c in coefficients if c * sign > 0}
                known = {c: records[key] for c, key in own.items() if key in records}
                chosen[Place(name, layer, direction)] = _best(
                    known, records[key_of(UNSTEERED)], direction
                )
    return chosen


def _best(known: Mapping[float, Record], unsteered: Record, direction: str) -> float:
    sound = {c: record for c, record in known.items() if is_sound(record, unsteered)}
    sign = -1 if direction == SUBTRACT else 1

    def rank(item: tuple[float, Record]) -> tuple[float, float, float]:
        scores = item[1]["scores"]
        return sign * scores[SCORE], sign * (scores[PROBABILITY] or 0), -abs(item[0])

    return max((sound or known).items(), key=rank)[0]
