"""The front of a chosen setting: its effect and damage, other strengths, and random directions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from faststeer.diagnostics.tuning.budget import Budget
from faststeer.diagnostics.tuning.parts import Part, Setting, in_texts
from faststeer.diagnostics.tuning.result import CHOSEN, FRONT, OTHER, RANDOM, Effect, Trial, Tuned
from faststeer.diagnostics.tuning.slopes import Place
from faststeer.diagnostics.tuning.sources import Tuning
from faststeer.evaluate.bootstrap import mean_interval
from faststeer.utils.version import VERSION
from faststeer.vectors.random import random_vector
from faststeer.vectors.steering_vector import SteeringVector

_FACTORS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
_WHOLE = "whole"  # vectors of all items, where each half was measured under the other's


@dataclass(frozen=True)
class _Line:
    """A setting to measure, of a version of the vectors."""

    kind: str
    factor: float
    setting: Setting
    version: str = ""


@dataclass(frozen=True)
class Front:
    """Measures a setting on a part that nothing was chosen on.

    `norms`: the stream's median, by vector and layer. `randoms`: random directions.
    """

    part: Part
    budget: Budget
    norms: Mapping[str, Mapping[int, float]]
    randoms: int
    seed: int

    def measured(
        self, tunings: Sequence[Tuning], setting: Setting, others: Sequence[Setting]
    ) -> Tuned:
        """Return the result of tuning.

        Args:
            tunings: the vectors and their items.
            setting: the chosen coefficients.
            others: of the next best layers.
        """
        scaled = [(f, {p: f * c for p, c in setting.items()}) for f in _FACTORS]
        lines = [_Line(CHOSEN if f == 1 else FRONT, f, own) for f, own in scaled]
        lines += [_Line(OTHER, 1.0, own) for own in others]
        randoms = {f"random {n}": self._random(tunings, n) for n in range(self.randoms)}
        lines += [_Line(RANDOM, 1.0, setting, version) for version in randoms]
        versions = dict(randoms)
        if any(own.vector is not own.for_measuring for own in tunings):
            versions[_WHOLE] = [in_texts(own.vector) for own in tunings]
        trials = self._trials(replace(self.part, versions=versions), tunings, lines)
        tuned = Tuned(
            [own.vector for own in tunings],
            trials,
            str(self.budget),
            {own.name: f"{own.measuring.count} {own.items}" for own in tunings},
            {own.name: own.unit for own in tunings},
        )
        return replace(tuned, vectors=self._stated(tuned, tunings, setting))

    def _trials(self, part: Part, tunings: Sequence[Tuning], lines: Sequence[_Line]) -> list[Trial]:
        """Measure effects of the vectors of `part`, and damage of those of all items."""
        layers = [
            sorted({p.layer for own in lines for p in own.setting if p.vector == number})
            for number in range(len(tunings))
        ]
        with part.steered(layers):
            rows = [row for own in lines for row in part.rows([own.setting], own.version)]
            effects = part.effects(rows)
            if _WHOLE in part.versions:
                rows = [
                    row for own in lines for row in part.rows([own.setting], own.version or _WHOLE)
                ]
            damages = part.damages(rows, intervals=True)
        trials = []
        for at, line in enumerate(lines):
            found = {
                own.name: Effect(float(moved[at].mean()), mean_interval(moved[at]))
                for own, moved in zip(tunings, effects, strict=True)
            }
            steering: dict[str, dict[int, float]] = {}
            for place, coefficient in line.setting.items():
                steering.setdefault(tunings[place.vector].name, {})[place.layer] = coefficient
            dose = sum(self._dose(tunings, place, c) for place, c in line.setting.items())
            trials.append(Trial(line.kind, steering, line.factor, dose, found, damages[at]))
        return trials

    def _dose(self, tunings: Sequence[Tuning], place: Place, coefficient: float) -> float:
        own = tunings[place.vector]
        return (
            abs(coefficient) * own.vector.norms()[place.layer] / self.norms[own.name][place.layer]
        )

    def _random(self, tunings: Sequence[Tuning], number: int) -> list[SteeringVector]:
        """Return a random direction for each vector, of its norms at all layers."""
        found = []
        for at, tuning in enumerate(tunings):
            own = tuning.vector.norms()
            draw = self.seed + 1000 * number + 10**6 * at
            vector = tuning.vector
            random = random_vector("random", own, vector.hidden_size, draw, vector.site)
            use = {k: vector.metadata[k] for k in ("positions",) if k in vector.metadata}
            found.append(in_texts(replace(random, metadata=use)))
        return found

    def _stated(
        self, tuned: Tuned, tunings: Sequence[Tuning], setting: Setting
    ) -> list[SteeringVector]:
        """Return the vectors with their setting, and what it was measured to do."""
        found = []
        chosen = tuned.chosen
        for at, own in enumerate(tunings):
            coefficients = {p.layer: c for p, c in setting.items() if p.vector == at}
            facts: dict[str, Any] = {
                "items": tuned.items[own.name],
                "unit": own.unit,
                "effect": chosen.effects[own.name].mean,
                "interval": list(chosen.effects[own.name].interval),
                "random": tuned.random_effect(own.name),
                "times_random": tuned.times_random(own.name),
                "kl": chosen.damage.kl,
                "perplexity_ratio": chosen.damage.perplexity,
                "lost_tokens": chosen.damage.lost,
                "dose": chosen.dose,
                "budget": tuned.budget,
                "texts": len(self.part.texts.rows),
                "seed": self.seed,
                "faststeer": VERSION,
            }
            if len(tunings) > 1:
                facts["together_with"] = [one.name for one in tunings if one is not own]
            found.append(_with_setting(own.vector, coefficients, facts))
        return found


def _with_setting(
    vector: SteeringVector, coefficients: Mapping[int, float], facts: Mapping[str, Any]
) -> SteeringVector:
    """State the setting: one coefficient, or directions scaled to several."""
    if len(coefficients) == 1:
        [(layer, coefficient)] = coefficients.items()
        stated = vector.for_use(layers=layer, coefficient=coefficient)
    else:
        own = {layer: c * vector.directions[layer] for layer, c in coefficients.items()}
        scaled = replace(vector, directions=own)
        stated = scaled.for_use(layers=list(coefficients), coefficient=1.0)
    return replace(stated, metadata={**stated.metadata, "tuned": dict(facts)})
