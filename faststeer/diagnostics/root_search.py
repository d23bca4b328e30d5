"""Search for the smallest coefficient at which a function, monotonic or not, reaches a target."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

Measure = Callable[[list[float]], list[float]]

LARGEST = 2.0**24
_MIN_RELATIVE_WIDTH = 1e-5  # of an interval: values inside a smaller one differ by rounding alone


def first_crossing(measure: Measure, target: float, tolerance: float) -> dict[float, float]:
    """Return all measured values by coefficient, ascending, with one near the first crossing.

    Coefficients are doubled, four at a time, until one reaches the target. Then the interval below
    the smallest that does is divided at the secant of the square root (a divergence grows with the
    square of a small coefficient) and at the midpoints on either side of it, so that its width at
    least halves. A value that is not finite counts as above the target.

    Args:
        measure: function from coefficients to their values.
        target: the value to reach, above 0.
        tolerance: accepted difference from the target, as a share of it.

    Raises:
        ValueError: no coefficient up to `LARGEST` reaches the target.
    """
    known = {0.0: 0.0}

    def take(coefficients: list[float]) -> None:
        for coefficient, value in zip(coefficients, measure(coefficients), strict=True):
            known[coefficient] = max(value, 0.0) if math.isfinite(value) else math.inf

    take([1 / 8, 1 / 4, 1 / 2, 1.0])
    while max(known.values()) < target:
        largest = max(known)
        if largest >= LARGEST:
            most = max(known, key=lambda coefficient: known[coefficient])
            raise ValueError(
                f"the target {target:g} is not reached: the largest found is {known[most]:.4g}, at "
                f"coefficient {most:g}, and coefficients up to {largest:g} were tried"
            )
        take([2 * largest, 4 * largest, 8 * largest, 16 * largest])
    while True:
        low, high = bracket(known, target)
        near = nearest(known, target)
        if (
            abs(known[near] - target) <= tolerance * target
            or high - low <= _MIN_RELATIVE_WIDTH * high
        ):
            return dict(sorted(known.items()))
        middle = _secant(low, known[low], high, known[high], target)
        take([(low + middle) / 2, middle, (middle + high) / 2])


def bracket(known: dict[float, float], target: float) -> tuple[float, float]:
    """Return the smallest measured coefficient that reaches the target, after the one below it."""
    ordered = sorted(known)
    place = next(n for n, coefficient in enumerate(ordered) if known[coefficient] >= target)
    return ordered[place - 1], ordered[place]


def nearest(known: dict[float, float], target: float) -> float:
    """Return the coefficient of `bracket` whose value is nearer the target."""
    low, high = bracket(known, target)
    return low if target - known[low] < known[high] - target else high


def falls(known: dict[float, float], least: float) -> list[tuple[float, float]]:
    """Return neighbouring coefficients between which the value falls by more than `least`."""
    ordered = sorted(known)
    return [(a, b) for a, b in pairwise(ordered) if known[a] - known[b] > least]


def _secant(low: float, at_low: float, high: float, at_high: float, target: float) -> float:
    if not math.isfinite(at_high):
        return (low + high) / 2
    below, above = math.sqrt(at_low), math.sqrt(at_high)
    found = low + (high - low) * (math.sqrt(target) - below) / (above - below)
    return found if low < found < high else (low + high) / 2
