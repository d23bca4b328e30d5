"""Sentences on the paper's questions, each made from the numbers and their intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from faststeer.experiments.broad.lines import Line
from faststeer.experiments.broad.measuring import HALF, PERMUTED, RANDOM, TWO, VECTOR, best_of
from faststeer.experiments.broad.sets import PYTHON_ONLY, TEXT
from faststeer.experiments.broad.tables import LEVELS

_MIDDLE = range(10, 21)  # layers, where the paper found steering at its best
_MUST_KEEP = 0.7  # text, where Python is at half or less


def broad_against_narrow(code: Sequence[Line], python: Sequence[Line], seed: int) -> str:
    """Is a broad skill harder to steer than a narrow one?"""
    broad, narrow = best_of(code), best_of(python)
    if math.isnan(broad.kept(HALF)) or math.isnan(narrow.kept(HALF)):
        return (
            "Are broad skills harder to steer than narrow ones? Not told: not both fell to 50 % "
            "at these coefficients."
        )

    def more(at: Tensor | None = None) -> float:
        return narrow.kept(HALF, documents=at) - broad.kept(HALF, documents=at)

    sure = broad.sure(more, seed)
    said = _judged(sure, "harder to steer", "easier to steer", "neither harder nor easier to steer")
    parts = [
        f"Are broad skills harder to steer than narrow ones? At 50 % of the skill, text keeps "
        f"{broad.kept(HALF):.1%} for general code ({broad.where}) and {narrow.kept(HALF):.1%} for "
        f"Python ({narrow.where}), a difference of {_points(more(), sure)}: here the broad skill "
        f"is {said}."
    ]
    twin = next((line for line in python if line.places == broad.places), None)
    if twin is not None:
        coefficient = _shared_coefficient(broad, twin)
        if coefficient is not None:
            fallen = [_at(line, line.away_from, coefficient) for line in (broad, twin)]
            kept = [_at(line, TEXT, coefficient) for line in (broad, twin)]
            parts.append(
                f"At an equal coefficient, {coefficient:g} at {broad.where}, general code falls to "
                f"{fallen[0]:.1%} (text to {kept[0]:.1%}) and Python to {fallen[1]:.1%} (text to "
                f"{kept[1]:.1%}), each under its own vector."
            )
    return " ".join(parts)


def growing_tax(line: Line, seed: int) -> str:
    """Does text pay more for each further point of the skill?"""
    levels = [level for level in LEVELS if not math.isnan(line.kept(level))]
    asked = f"Does the tax on text grow with strength ({line.away_from}, {line.name})?"
    if len(levels) < 3 or line.step(levels[0]) == line.step(levels[-1]):
        return f"{asked} Not told: too few coefficients lie on its way."

    def prices(at: Tensor | None = None) -> tuple[float, float]:
        early = (1 - line.kept(levels[0], documents=at)) / (1 - levels[0])
        before, last = (line.kept(level, documents=at) for level in levels[-2:])
        return early, (before - last) / (levels[-2] - levels[-1])

    def growth(at: Tensor) -> float:
        early, late = prices(at)
        return late - early

    early, late = prices()
    sure = line.sure(growth, seed)
    said = _judged(sure, "it grows", "it falls", "no growth can be told")
    return (
        f"{asked} A point of the skill costs {early:.2f} points of text on the way to "
        f"{levels[0]:.0%}, and {late:.2f} from {levels[-2]:.0%} to {levels[-1]:.0%}, "
        f"a difference of {late - early:+.2f}{_range(sure, 1, 2)}: {said}."
    )


def first_layer(lines: Sequence[Line], seed: int) -> str:
    """Is the first layer worse than those in the middle?"""
    first = next((line for line in lines if line.places == [0]), None)
    middle = [line for line in lines if line.places[0] in _MIDDLE] or list(lines[1:-1])
    asked = f"Is layer 0 worse than layers 10 to 20 ({lines[0].away_from})?"
    if first is None or not middle:
        return f"{asked} Not told: these layers were not measured."
    if math.isnan(first.kept(HALF)):
        return (
            f"{asked} Not told: at layer 0 the skill fell to "
            f"{min(first.relative(first.away_from)):.1%} at the strongest coefficient, and no "
            "further."
        )
    return f"{asked} " + " ".join(
        _compared(line, first, "text keeps more than at layer 0", seed) for line in middle
    )


def baselines(best: Line, variants: Sequence[Line], seed: int) -> str:
    """Is a meaningless direction worse than the vector; do other places do better?"""
    sentences = []
    for line in variants:
        if line.kind in (PERMUTED, RANDOM):
            claim = f"the vector spares text more than {line.kind}"
            sentences.append(_compared(best, line, claim, seed))
        else:
            where = "two layers at once spare" if line.kind == TWO else "after attention it spares"
            claim = f"{where} text more than {best.where} alone"
            sentences.append(_compared(line, best, claim, seed))
    asked = f"Is it the vector away from {best.away_from}, and this place ({best.where})?"
    return " ".join([asked, *(own[0].upper() + own[1:] for own in sentences)])


def python_at_half(lines: Sequence[Line]) -> str:
    """The setting that spares text most with Python at half or less."""
    found = [
        (_at(line, TEXT, c), _at(line, PYTHON_ONLY, c), c, line)
        for line in lines
        for c in line.coefficients[1:]
        if _at(line, PYTHON_ONLY, c) <= HALF
    ]
    if not found:
        return "Python fell to 50 % at no setting that was measured."
    text, python, coefficient, line = max(found, key=lambda own: own[0])
    holds = "at least" if text >= _MUST_KEEP else "less than"
    return (
        f"Of all settings that bring Python to 50 % or less, the vector away from "
        f"{line.away_from} at {line.name}, coefficient {coefficient:g}, spares text most: Python "
        f"is at {python:.1%}, text at {text:.1%}, {holds} the {_MUST_KEEP:.0%} asked for."
    )


def crosswise(code: Line, python: Line) -> str:
    """What a vector does to the other's skill."""
    parts = []
    for line, others in ((code, (PYTHON_ONLY, "other languages")), (python, ("other languages",))):
        if math.isnan(line.kept(HALF)):
            parts.append(f"The vector away from {line.away_from} did not bring it to 50 %.")
            continue
        left = " and ".join(f"{skill} at {line.kept(HALF, skill):.1%}" for skill in others)
        parts.append(
            f"When the vector away from {line.away_from} ({line.where}) has brought it to 50 %, "
            f"{left} of unsteered are left, and text at {line.kept(HALF):.1%}."
        )
    return " ".join(parts)


def _compared(one: Line, other: Line, claim: str, seed: int) -> str:
    """Whether one line keeps more text than another at half of the skill."""
    for line in (one, other):
        if math.isnan(line.kept(HALF)):
            least = min(line.relative(line.away_from))
            return f"{line.name}: the skill falls to {least:.1%} at most, so this is not told."

    def more(at: Tensor | None = None) -> float:
        return one.kept(HALF, documents=at) - other.kept(HALF, documents=at)

    sure = one.sure(more, seed)
    said = _judged(sure, "yes", "no, the other way round", "not to be told apart")
    subject = one.where if one.kind == VECTOR and other.kind == VECTOR else ""
    return (
        f"{subject + ': ' if subject else ''}{claim}: {said} ({one.kept(HALF):.1%} against "
        f"{other.kept(HALF):.1%}, {_points(more(), sure)})."
    )


def _judged(sure: tuple[float, float] | None, above: str, below: str, neither: str) -> str:
    if sure is None or sure[0] <= 0 <= sure[1]:
        return neither
    return above if sure[0] > 0 else below


def _points(difference: float, sure: tuple[float, float] | None) -> str:
    return f"{100 * difference:+.1f} points{_range(sure, 100, 1)}"


def _range(sure: tuple[float, float] | None, factor: float, digits: int) -> str:
    if sure is None:
        return ", not reached in all resamples"
    low, high = (f"{factor * end:+.{digits}f}" for end in sure)
    return f" (95 %: {low} to {high})"


def _shared_coefficient(one: Line, other: Line) -> float | None:
    """Where the first's skill is nearest to half, of the coefficients that both lines have."""
    shared = [c for c in one.coefficients[1:] if c in other.coefficients]
    return min(shared, key=lambda c: abs(_at(one, one.away_from, c) - HALF), default=None)


def _at(line: Line, skill: str, coefficient: float) -> float:
    return line.relative(skill)[line.coefficients.index(coefficient)]
