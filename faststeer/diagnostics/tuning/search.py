"""The strongest coefficients within a budget, for several settings at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

_ENOUGH = 0.93  # share of the budget at which a search ends
_GROWTH = 16.0  # at most, from one coefficient to the next
_LEAST = 1e-4  # share of a budget: what uses less, or none, counts as this


def strongest(
    used: Callable[[list[tuple[int, float]]], list[float]],
    starts: Sequence[float],
    rounds: int,
    most: Sequence[float] | None = None,
) -> list[dict[float, float]]:
    """Search, along several lines at once, for the strongest coefficient within a budget.

    What is used of the budget grows about as the square of the coefficient; the search interpolates
    between what it measured, and all lines are measured together.

    Args:
        used: returns the shares of the budget that (line, coefficient) use.
        starts: of each line, above 0.
        rounds: of measurements.
        most: the largest coefficient of each line that is tried.

    Returns:
        Per line, the coefficients that were measured and what they use of the budget.
    """
    known: list[dict[float, float]] = [{} for _ in starts]
    ends = [math.inf] * len(starts) if most is None else most
    following: list[float | None] = list(map(min, starts, ends))
    for _ in range(rounds):
        asked = [(line, c) for line, c in enumerate(following) if c is not None]
        if not asked:
            break
        for (line, coefficient), share in zip(asked, used(asked), strict=True):
            known[line][coefficient] = share if math.isfinite(share) else math.inf
        following = [_following(*both) for both in zip(known, ends, strict=True)]
    return known


def best_within(known: dict[float, float]) -> float | None:
    """Return the largest measured coefficient below which all keep to the budget, None if none."""
    found = None
    for coefficient in sorted(known):
        if known[coefficient] > 1:
            break
        found = coefficient
    return found


def _following(known: dict[float, float], most: float) -> float | None:
    """Return the coefficient to measure next; None where the search has ended."""
    below = best_within(known)
    above = min((c for c, share in known.items() if share > 1), default=None)
    if below is not None and (known[below] >= _ENOUGH or below >= most):
        return None
    if below is None:
        assert above is not None
        # The infinite share of broken logits says nothing about how far it is.
        shrink = 0.25 if math.isinf(known[above]) else 0.97 / math.sqrt(known[above])
        return above * max(shrink, 1 / _GROWTH)
    low = max(known[below], _LEAST)
    if above is None:
        return min(below * min(0.98 / math.sqrt(low), _GROWTH), most)
    if math.isinf(known[above]):
        return math.sqrt(below * above)
    slope = math.log(known[above] / low) / math.log(above / below)
    step = (0.97 / low) ** (1 / slope) if slope > 0 else 1.0
    width = math.log(above / below)
    return below * min(max(step, math.exp(0.1 * width)), math.exp(0.9 * width))
