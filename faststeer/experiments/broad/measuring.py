"""The settings of the experiment, measured line by line; what was measured before is taken up."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faststeer.evaluate import DocumentsTask, Records, Subject, measure_lines
from faststeer.evaluate.provenance import vector_hash
from faststeer.evaluate.records import Setting, key_of
from faststeer.experiments.broad.directions import LastTokens
from faststeer.experiments.broad.lines import Line
from faststeer.experiments.broad.sets import CODE, PYTHON_ONLY, Sets
from faststeer.experiments.broad.skills import SkillsTask
from faststeer.utils.progress import Advance
from faststeer.vectors.random import random_like
from faststeer.vectors.steering_vector import SteeringVector

VECTORS = {CODE: "code", PYTHON_ONLY: "python"}  # skill -> the vector that points away from it
VECTOR, PERMUTED, RANDOM = "vector", "permuted means", "random, of equal norm"
MIDDLE, TWO = "after attention", "two at once"
BASELINES = (PERMUTED, RANDOM)
VARIANTS = {CODE: (PERMUTED, RANDOM, TWO, MIDDLE), PYTHON_ONLY: (PERMUTED, RANDOM, TWO)}
HALF = 0.5  # the level at which layers are compared
_PAIR, _OF = (10, 15), 32  # the paper's two layers at once, of so many

Lines = dict[tuple[str, tuple[int, ...]], list[Setting]]  # by kind and layers


@dataclass(frozen=True)
class Plan:
    """What is measured, how strongly, and into which folder."""

    sets: Sets
    layers: list[int]
    coefficients: list[float]
    max_length: int
    seed: int
    folder: Path
    header: Mapping[str, Any]

    @property
    def settings(self) -> int:
        """Of single layers, if no line ends early."""
        return len(VECTORS) * len(self.layers) * len(self.coefficients)

    @property
    def variants(self) -> int:
        """Of baselines and other places, if no line ends early."""
        return sum(map(len, VARIANTS.values())) * len(self.coefficients)

    @property
    def items(self) -> int:
        """Documents of a setting."""
        return sum(map(len, self.sets.held_out.values()))


class Measuring:
    """Measures lines of each skill's vector."""

    def __init__(self, subject: Subject, plan: Plan, states: LastTokens, advance: Advance) -> None:
        """`states`: of all layers of the plan."""
        self.subject, self.plan, self.states, self.advance = subject, plan, states, advance

    def every_layer(self, skill: str) -> list[Line]:
        """The skill's vector at each layer alone."""
        vector = self.states.vector(VECTORS[skill], skill)
        lines: Lines = {
            (VECTOR, (layer,)): self._settings({vector.name: [layer]}) for layer in self.plan.layers
        }
        return self._measured(skill, VECTORS[skill], [vector], lines)

    def variants(self, skill: str, layer: int, middle: LastTokens) -> list[Line]:
        """Baselines at one layer, the vector made and added after attention, and at two layers.

        `middle`: the states after attention of that layer.
        """
        name, seed = VECTORS[skill], self.plan.seed
        own = self.states.vector(name, skill)
        here = own.select([layer])
        permuted = self.states.permuted(f"{name} permuted", skill).select([layer])
        vectors = {
            PERMUTED: permuted,
            RANDOM: random_like(here, seed),
            MIDDLE: middle.vector(f"{name} after attention", skill).select([layer]),
        }
        lines: Lines = {
            (kind, (layer,)): self._settings({vector.name: [layer]})
            for kind, vector in vectors.items()
        }
        pair = paired(self.plan.layers, self.subject.patched.num_layers)
        if len(pair) > 1:  # half of the coefficient each, or the dose would be twice as large
            lines[TWO, tuple(pair)] = self._settings({own.name: pair}, 1 / len(pair))
        every = [own.select(pair), *vectors.values()]
        wanted = {place: own for place, own in lines.items() if place[0] in VARIANTS[skill]}
        return self._measured(skill, f"{name}-variants", every, wanted)

    def _settings(self, where: Mapping[str, Sequence[int]], share: float = 1.0) -> list[Setting]:
        return [
            {name: dict.fromkeys(layers, c * share) for name, layers in where.items()}
            for c in self.plan.coefficients
        ]

    def _measured(
        self,
        skill: str,
        file: str,
        vectors: Sequence[SteeringVector],
        lines: Lines,
    ) -> list[Line]:
        sets = self.plan.sets
        documents = DocumentsTask(sets.held_out, sets.drawn[0].source, self.plan.max_length)
        task = SkillsTask(documents, sets.skills, skill)
        task.check(self.subject)
        hashes = {vector.name: vector_hash(vector) for vector in vectors}
        header = {**self.plan.header, "task": task.facts, "vectors": hashes}
        records = Records(self.plan.folder / f"{file}.jsonl", header)
        handles = [self.subject.patched.steer(vector) for vector in vectors]
        try:
            found = measure_lines(self.subject, task, list(lines.values()), records, self.advance)
        finally:
            for handle in handles:
                handle.remove()
        by_key = {key_of(record["steering"]): record for record in found}
        measured = []
        for (kind, places), settings in lines.items():
            own = [by_key[key_of(s)] for s in [{}, *settings] if key_of(s) in by_key]
            measured.append(Line(kind, skill, places, own, skills_and_sources(sets)))
        return measured


def skills_and_sources(sets: Sets) -> dict[str, Mapping[str, int]]:
    """Documents of each skill, and of each source alone."""
    alone = {name: {name: len(texts)} for name, texts in sets.held_out.items()}
    return {**alone, **sets.skills}


def best_of(lines: Sequence[Line]) -> Line:
    """The line that keeps most text when its skill has fallen to half.

    Where none falls so far, the one that falls furthest.
    """
    reached = [line for line in lines if not math.isnan(line.kept(HALF))]
    if reached:
        return max(reached, key=lambda line: line.kept(HALF))
    return min(lines, key=lambda line: min(line.relative(line.away_from)))


def paired(layers: Sequence[int], depth: int) -> list[int]:
    """Two of the layers, where the paper's two would be in a model of this depth."""
    wanted = [number * depth / _OF for number in _PAIR]
    first = min(layers[:-1] or layers, key=lambda layer: abs(layer - wanted[0]))
    later = [layer for layer in layers if layer > first] or [first]
    return sorted({first, min(later, key=lambda layer: abs(layer - wanted[1]))})
