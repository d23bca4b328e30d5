"""The settings of the experiment, as lines of growing strength."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from faststeer.evaluate import DocumentsTask
from faststeer.evaluate.records import Setting, key_of
from faststeer.experiments.broad_skills.document_sets import CODE, PYTHON_ONLY, Sets
from faststeer.experiments.broad_skills.strength_lines import VECTOR, StrengthLine
from faststeer.experiments.broad_skills.task import SkillsTask
from faststeer.experiments.broad_skills.vectors import LastTokens
from faststeer.experiments.measure import Recorder
from faststeer.vectors.random import random_like
from faststeer.vectors.steering_vector import SteeringVector

VECTORS = {CODE: "code", PYTHON_ONLY: "python"}  # skill -> the vector that points away from it
PERMUTED, RANDOM = "permuted means", "random, of equal norm"
MIDDLE, TWO = "after attention", "two at once"
BASELINES = (PERMUTED, RANDOM)
VARIANTS = {CODE: (PERMUTED, RANDOM, TWO, MIDDLE), PYTHON_ONLY: (PERMUTED, RANDOM, TWO)}
HALF = 0.5  # the level at which layers are compared
_PAIR, _OF = (10, 15), 32  # the paper's two layers at once, and its model's depth

Lines = dict[tuple[str, tuple[int, ...]], list[Setting]]  # by kind and layers


@dataclass(frozen=True)
class SkillLines:
    """Measures lines of each skill's vector; `states` has the residual stream of all layers."""

    recorder: Recorder
    sets: Sets
    states: LastTokens
    coefficients: Sequence[float]
    max_length: int
    seed: int

    def by_layer(self, skill: str) -> list[StrengthLine]:
        """Measure the skill's vector at each layer alone."""
        vector = self.states.vector(VECTORS[skill], skill)
        lines: Lines = {
            (VECTOR, (layer,)): self._settings(vector.name, [layer]) for layer in self.states.layers
        }
        return self._measured(skill, VECTORS[skill], [vector], lines)

    def variants(self, skill: str, layer: int, middle: LastTokens) -> list[StrengthLine]:
        """Measure the baselines at one layer, the vector made and added after attention, and the
        vector at two layers; `middle` has the states after attention of that layer.
        """
        name = VECTORS[skill]
        own = self.states.vector(name, skill)
        vectors = {
            PERMUTED: self.states.permuted(f"{name} permuted", skill).select([layer]),
            RANDOM: random_like(own.select([layer]), self.seed),
            MIDDLE: middle.vector(f"{name} after attention", skill).select([layer]),
        }
        lines: Lines = {
            (kind, (layer,)): self._settings(vector.name, [layer])
            for kind, vector in vectors.items()
        }
        pair = layer_pair(self.states.layers, self.recorder.subject.patched.num_layers)
        if len(pair) > 1:  # half of the coefficient each, or the strength would be doubled
            lines[TWO, tuple(pair)] = self._settings(own.name, pair)
        wanted = {place: own for place, own in lines.items() if place[0] in VARIANTS[skill]}
        every = [own.select(pair), *vectors.values()]
        return self._measured(skill, f"{name}-variants", every, wanted)

    def _settings(self, name: str, layers: Sequence[int]) -> list[Setting]:
        return [{name: dict.fromkeys(layers, c / len(layers))} for c in self.coefficients]

    def _measured(
        self, skill: str, file: str, vectors: Sequence[SteeringVector], lines: Lines
    ) -> list[StrengthLine]:
        sets = self.sets
        documents = DocumentsTask(sets.held_out, sets.drawn[0].source, self.max_length)
        task = SkillsTask(documents, sets.skills, skill)
        records = self.recorder.measure(file, task, list(lines.values()), vectors)
        measured = []
        for (kind, places), settings in lines.items():
            keys = [key_of(setting) for setting in [{}, *settings]]
            own = [records[key] for key in keys if key in records]
            measured.append(StrengthLine(kind, skill, places, own, skills_and_sources(sets)))
        return measured


def skills_and_sources(sets: Sets) -> dict[str, Mapping[str, int]]:
    """Return the documents of each skill, and of each source alone."""
    alone = {name: {name: len(texts)} for name, texts in sets.held_out.items()}
    return {**alone, **sets.skills}


def best_of(lines: Sequence[StrengthLine]) -> StrengthLine:
    """Return the line that keeps most text when its skill has fallen to half.

    Where none falls so far, the one that falls furthest.
    """
    reached = [line for line in lines if not math.isnan(line.kept(HALF))]
    if reached:
        return max(reached, key=lambda line: line.kept(HALF))
    return min(lines, key=lambda line: min(line.relative(line.away_from)))


def layer_pair(layers: Sequence[int], depth: int) -> list[int]:
    """Return two of the layers, at the depths of the paper's two in a model of `depth` layers."""
    wanted = [number * depth / _OF for number in _PAIR]
    first = min(layers[:-1] or layers, key=lambda layer: abs(layer - wanted[0]))
    later = [layer for layer in layers if layer > first] or [first]
    return sorted({first, min(later, key=lambda layer: abs(layer - wanted[1]))})
