"""Choosing on the validation part: coefficients, layers, and how strong several vectors may be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

from faststeer.evaluate.records import Record, key_of
from faststeer.experiments.estimates import TEXT
from faststeer.experiments.measure import Measured
from faststeer.experiments.settings import ADD, DIRECTIONS, SUBTRACT, UNSTEERED, Place, Tuned, alone
from faststeer.experiments.traits.protocol import Protocol

_NEARLY = 0.02  # of a probability


@dataclass(frozen=True)
class Chosen:
    """What was chosen on the validation part.

    `tuned`: the coefficient of each vector alone at each layer, either way. `best`: each trait's
    best layer. `common`: the layer at which one combined vector does most. `assignments`: of all
    traits to layers of their own; the first is the best, the others are turned.
    """

    tuned: Tuned
    best: Mapping[str, int]
    common: int
    assignments: Sequence[Mapping[str, int]]


def choose(
    validation: Mapping[str, Measured],
    text: Mapping[str, Measured],
    layers: Sequence[int],
    coefficients: Sequence[float],
    protocol: Protocol,
) -> Chosen:
    """Return what moves each trait furthest without spoiling neutral text.

    Args:
        validation: the scores of each vector alone, by trait, on its own prompts.
        text: the same settings on general text.
        layers: the layers that were tried.
        coefficients: those that were tried with either sign.
        protocol: the sizes of the experiment.
    """
    tuned: dict[Place, float] = {}
    gains: dict[str, dict[int, float]] = {}
    for name, records in validation.items():
        gains[name] = {}
        for layer in layers:
            for direction in DIRECTIONS:
                sign = 1 if direction == ADD else -1
                choices = [sign * c for c in coefficients]
                tuned[Place(name, layer, direction)] = _furthest(
                    name, layer, choices, records, text[name], protocol.perplexity
                )
            high, low = (
                _probability(
                    records[key_of(alone(name, layer, tuned[Place(name, layer, direction)]))], name
                )
                for direction in (ADD, SUBTRACT)
            )
            gains[name][layer] = high - low
    names = list(validation)
    best = {name: max(layers, key=own.__getitem__) for name, own in gains.items()}
    common = max(layers, key=lambda layer: sum(gains[name][layer] for name in names))
    first = max(
        permutations(layers, len(names)),
        key=lambda places: sum(gains[name][at] for name, at in zip(names, places, strict=True)),
    )
    assignments = []
    for number in range(protocol.assignments):
        turn = number * len(names) // protocol.assignments
        turned = [*first[turn:], *first[:turn]]
        assignments.append(dict(zip(names, turned, strict=True)))
    return Chosen(tuned, best, common, assignments)


def _furthest(
    name: str,
    layer: int,
    choices: Sequence[float],
    records: Measured,
    text: Measured,
    limit: float,
) -> float:
    """Return the weakest coefficient that moves as far as any whose text is within `limit`.

    As far: by `_NEARLY` of the furthest. Without any within the limit, the weakest that there is.
    """
    before = perplexity_of(text[key_of(UNSTEERED)])
    sign = 1 if choices[0] > 0 else -1
    moved = {}
    for c in choices:
        key = key_of(alone(name, layer, c))
        if key in text and perplexity_of(text[key]) - before <= limit:
            moved[c] = sign * _probability(records[key], name)
    if not moved:
        return min(choices, key=abs)
    furthest = max(moved.values())
    return min((c for c, own in moved.items() if own >= furthest - _NEARLY), key=abs)


def _probability(record: Record, name: str) -> float:
    found: float | None = record["scores"][name]["probability"]
    return 0.5 if found is None else found


def perplexity_of(record: Record) -> float:
    """Return the perplexity of general text; infinite where it overflows."""
    found: float | None = record["scores"][TEXT]["perplexity"]
    return float("inf") if found is None else found
