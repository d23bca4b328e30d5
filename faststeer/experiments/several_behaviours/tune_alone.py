"""The coefficient of each vector alone: that of the largest effect on the validation questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from faststeer.evaluate.records import Record, key_of
from faststeer.experiments.measure import Measured
from faststeer.experiments.settings import (
    DIRECTIONS,
    SUBTRACT,
    UNSTEERED,
    Place,
    alone,
)
from faststeer.experiments.several_behaviours.scores import PROBABILITY, SCORE, is_sound


def tune(
    found: Mapping[str, Measured], layers: Sequence[int], coefficients: Sequence[float]
) -> dict[Place, float]:
    """Return the coefficient at each place that moves the score furthest in its direction.

    Settings with collapsed or faulty answers count only where there are no others. Of equal scores
    the one with the further probability is chosen, then the smaller coefficient.
    """
    chosen = {}
    for name, records in found.items():
        for layer in layers:
            for direction in DIRECTIONS:
                sign = -1 if direction == SUBTRACT else 1
                own = {c: key_of(alone(name, layer, c)) for c in coefficients if c * sign > 0}
                known = {c: records[key] for c, key in own.items() if key in records}
                best = _best(known, records[key_of(UNSTEERED)], sign)
                chosen[Place(name, layer, direction)] = best
    return chosen


def _best(known: Mapping[float, Record], unsteered: Record, sign: int) -> float:
    sound = {c: record for c, record in known.items() if is_sound(record, unsteered)}

    def rank(item: tuple[float, Record]) -> tuple[float, float, float]:
        scores = item[1]["scores"]
        return sign * scores[SCORE], sign * (scores[PROBABILITY] or 0), -abs(item[0])

    return max((sound or known).items(), key=rank)[0]
