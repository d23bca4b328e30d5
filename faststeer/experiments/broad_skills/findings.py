"""Differences between lines, with intervals: the paper's questions as a table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from faststeer.experiments.broad_skills.document_sets import CODE, PYTHON_ONLY
from faststeer.experiments.broad_skills.measure import BASELINES, HALF, best_of
from faststeer.experiments.broad_skills.strength_lines import StrengthLine
from faststeer.experiments.result import Cell, Table

_MIDDLE = range(10, 21)  # layers, where the paper found steering at its best
_EARLY, _LATE = (1.0, 0.8), (0.5, 0.3)  # levels of a skill between which its price is compared

Lines = Mapping[str, Sequence[StrengthLine]]  # by the skill that is steered away from


def comparisons_table(by_layer: Lines, variants: Lines, seed: int) -> Table:
    """Compare the text kept at 50 % of the skill: Python with code, the middle layers with layer 0,
    and the best layer with the baselines and the other places.
    """
    pairs = [(best_of(by_layer[PYTHON_ONLY]), best_of(by_layer[CODE]))]
    for skill, lines in by_layer.items():
        first = next((line for line in lines if line.places == [0]), None)
        if first is not None:
            middle = [line for line in lines if line.places[0] in _MIDDLE] or lines[1:-1]
            pairs += [(line, first) for line in middle]
        best = best_of(lines)
        for line in variants[skill]:
            pairs.append((best, line) if line.kind in BASELINES else (line, best))
    return Table(
        "Text kept (%) at 50% of the skill: differences in points, with 95 % intervals",
        ["first", "second", "first keeps", "second keeps", "difference"],
        [_compared(one, other, seed) for one, other in pairs],
        1,
    )


def price_table(by_layer: Lines, seed: int) -> Table:
    """Compare what a point of each skill costs in points of text early and late, at best layers."""
    rows: list[list[Cell]] = []
    for skill, lines in by_layer.items():
        best = best_of(lines)

        def grown(documents: Tensor | None = None, best: StrengthLine = best) -> float:
            return _price(best, *_LATE, documents) - _price(best, *_EARLY, documents)

        early, late = _price(best, *_EARLY), _price(best, *_LATE)
        prices: list[Cell] = [None if math.isnan(own) else own for own in (early, late)]
        shown = None if None in prices else _signed(grown(), best.interval(grown, seed), 2)
        rows.append([f"{skill}, {best.name}", *prices, shown])
    return Table(
        "Points of text that a point of the skill costs, with 95 % intervals",
        ["steering", "down to 80%", "from 50% to 30%", "difference"],
        rows,
        2,
    )


def _price(line: StrengthLine, high: float, low: float, documents: Tensor | None = None) -> float:
    """Return the text lost per skill lost, between two levels of the skill; NaN if not reached."""
    above, below = (
        1.0 if level == 1 else line.kept(level, documents=documents) for level in (high, low)
    )
    return (above - below) / (high - low)


def kept_in_words(by_layer: Lines, seed: int) -> str:
    """Return how much text is kept at 50 % of each skill, and the difference between them."""
    parts = []
    for skill, lines in by_layer.items():
        best = best_of(lines)
        kept = best.kept(HALF)
        parts.append(
            f"{skill[0].upper()}{skill[1:]} does not fall to 50 %."
            if math.isnan(kept)
            else f"Where {skill} has fallen to 50 %, {100 * kept:.1f} % of text is kept "
            f"({best.name})."
        )
    difference = _compared(best_of(by_layer[PYTHON_ONLY]), best_of(by_layer[CODE]), seed)[-1]
    if difference is not None:
        parts.append(
            f"The difference, {PYTHON_ONLY} less {CODE}, is {difference} points: above 0 the "
            "narrow skill is easier to steer away from."
        )
    return " ".join(parts)


def _compared(one: StrengthLine, other: StrengthLine, seed: int) -> list[Cell]:
    def difference(documents: Tensor | None = None) -> float:
        return 100 * (one.kept(HALF, documents=documents) - other.kept(HALF, documents=documents))

    names: list[Cell] = [f"{line.away_from}, {line.name}" for line in (one, other)]
    kept = [None if math.isnan(own) else 100 * own for own in (one.kept(HALF), other.kept(HALF))]
    if None in kept:
        return [*names, *kept, None]
    return [*names, *kept, _signed(difference(), one.interval(difference, seed), 1)]


def _signed(value: float, ends: tuple[float, float] | None, digits: int) -> str:
    """Return a difference with its interval, which is None where some resamples lack it."""
    shown = [f"{own:+.{digits}f}" for own in (value, *(ends or ()))]
    return shown[0] if ends is None else f"{shown[0]} [{shown[1]}, {shown[2]}]"
