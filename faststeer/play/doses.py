"""How far a slider reaches: from the vector's dose, with the place where text begins to break."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from faststeer.vectors.steering_vector import SteeringVector

BREAKING = 0.33  # of the stream's norm: from about here on text breaks (docs/your-own-vector.md)
BOUNDS = ("floor", "ceiling")  # of a cap, in a vector's metadata
MOST = 0.7  # the slider's end; from here on perplexity is mostly tens of times the unsteered one


@dataclass(frozen=True)
class Reach:
    """The range of a slider, and what it means in words.

    Attributes:
        least: its left end.
        most: its right end.
        words: where damage begins, for the line below the slider.
    """

    least: float
    most: float
    words: str

    @property
    def step(self) -> float:
        """A step of a hundredth of the range or less, as a round number."""
        return float(10.0 ** math.floor(math.log10((self.most - self.least) / 100)))


def reach(
    vector: SteeringVector,
    layers: Sequence[int],
    mode: str,
    norms: Mapping[int, float],
) -> Reach:
    """Return how far the slider of a vector reaches.

    Args:
        vector: directions ``[H]``; its own "tuned" metadata are shown, where it has them.
        layers: those that it steers.
        mode: one of `REACHES`.
        norms: layer -> median norm of the residual stream at the vector's site.

    Raises:
        ValueError: a mode that the page does not offer.
    """
    if mode not in REACHES:
        raise ValueError(
            f"mode {mode!r} of {vector.name!r} has no slider; expected one of {', '.join(REACHES)}"
        )
    return REACHES[mode](vector, layers, norms)


def _of_addition(
    vector: SteeringVector, layers: Sequence[int], norms: Mapping[int, float]
) -> Reach:
    # Layers add up to at most the sum of their doses.
    own = vector.norms()
    dose = sum(own[layer] / norms[layer] for layer in layers)
    if not dose:
        return Reach(-1.0, 1.0, "the vector is zero here: it changes nothing")
    damage = f"from about ±{BREAKING / dose:.2g} on text begins to break"
    return Reach(-_rounded_up(MOST / dose), _rounded_up(MOST / dose), _tuned(vector) + damage)


def _of_removal(vector: SteeringVector, layers: Sequence[int], norms: Mapping[int, float]) -> Reach:
    return Reach(0.0, 1.0, "the fraction that is removed; 1 removes the direction")


def _of_clamping(
    vector: SteeringVector, layers: Sequence[int], norms: Mapping[int, float]
) -> Reach:
    typical = min(norms[layer] for layer in layers)
    most = _rounded_up(MOST * typical / len(layers))
    words = f"the projection is set to this; the stream's norm is about {typical:.3g} here"
    return Reach(-most, most, words)


def _of_cap(vector: SteeringVector, layers: Sequence[int], norms: Mapping[int, float]) -> Reach:
    bounds = [f"{key} {vector.metadata[key]}" for key in BOUNDS if key in vector.metadata]
    if not bounds:
        return Reach(0.0, 1.0, "the vector states no floor or ceiling, and cannot cap")
    return Reach(0.0, 1.0, f"the share of the way to its {' and '.join(bounds)}; 1 reaches it")


# The modes that the page offers, and how far the slider of each reaches.
REACHES: dict[str, Callable[[SteeringVector, Sequence[int], Mapping[int, float]], Reach]] = {
    "add": _of_addition,
    "project": _of_removal,
    "clamp": _of_clamping,
    "cap": _of_cap,
}


def _tuned(vector: SteeringVector) -> str:
    tuned: Any = vector.metadata.get("tuned")
    coefficient = vector.metadata.get("coefficient")
    if not isinstance(tuned, Mapping) or not isinstance(coefficient, (int, float)):
        return ""
    return f"tuned: {coefficient:+.3g}; "


def _rounded_up(number: float) -> float:
    """Return the next number of the form 1, 1.5, 2, 3, 4, 5, 6 or 8 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(number))
    nice = next(n for n in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if n * power >= number * 0.999)
    return float(nice * power)
