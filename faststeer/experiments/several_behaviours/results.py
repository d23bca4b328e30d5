"""All measurements of the experiment, and the ways to steer that its tables compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from faststeer.evaluate.records import Record, Setting, key_of
from faststeer.experiments.estimates import Estimate, tax
from faststeer.experiments.measure import Measured
from faststeer.experiments.settings import (
    ADD,
    SUBTRACT,
    UNSTEERED,
    VARIANTS,
    Place,
    Tuned,
    alone,
    at_once,
    combined,
)
from faststeer.experiments.several_behaviours.protocol import SHOWN, Layers, Protocol
from faststeer.experiments.several_behaviours.questions import BehaviourQuestions
from faststeer.experiments.several_behaviours.scores import change
from faststeer.vectors.steering_vector import SteeringVector

DEFAULT = "default"

Way = Mapping[str, Setting]  # by behaviour


@dataclass(frozen=True)
class Results:
    """Records are found by behaviour, then by `key_of` the setting.

    `tuned`: the coefficients chosen for each vector alone; `whole`: the global coefficient that was
    chosen, `jointly`: one per behaviour. `test`: all settings, on questions that no choice was made
    on; `text`: each vector alone and all at once, on general text; `generations`: the generated
    texts.
    """

    protocol: Protocol
    layers: Layers
    questions: Sequence[BehaviourQuestions]
    vectors: Mapping[str, SteeringVector]
    tuned: Tuned
    whole: float
    jointly: Mapping[str, float]
    test: Mapping[str, Measured]
    text: Measured
    generations: Measured

    @property
    def names(self) -> list[str]:
        """The names of the behaviours."""
        return [own.name for own in self.questions]

    @property
    def shown(self) -> list[str]:
        """Their names in tables."""
        return [SHOWN[name] for name in self.names]

    def record(self, name: str, setting: Setting) -> Record:
        """Return a behaviour's answers on the test part."""
        return self.test[name][key_of(setting)]

    def records(self, way: Way) -> list[Record]:
        """Return every behaviour's answers on the test part."""
        return [self.record(name, way[name]) for name in self.names]

    def every(self, setting: Setting) -> Way:
        """Return the way in which all behaviours have one setting."""
        return dict.fromkeys(self.names, setting)

    def alone(self, name: str, layer: int, direction: str) -> Setting:
        """Return the setting of a vector alone with its tuned coefficient."""
        return alone(name, layer, self.tuned[Place(name, layer, direction)])

    def globally(self, coefficient: float) -> Setting:
        """Return the setting of all vectors at once with one coefficient."""
        return at_once(self.layers.at_once, dict.fromkeys(self.names, coefficient))

    @property
    def joint(self) -> Setting:
        """All vectors at once with a coefficient per behaviour."""
        return at_once(self.layers.at_once, self.jointly)

    def alone_at(self, layer: int) -> dict[str, Way]:
        """Return the ways of each vector alone at a layer, beside the unsteered one."""
        alone_ways = {
            direction: {name: self.alone(name, layer, direction) for name in self.names}
            for direction in (SUBTRACT, ADD)
        }
        return {DEFAULT: self.every(UNSTEERED), **alone_ways}

    def combined_at(self, layer: int) -> dict[str, Way]:
        """Return the ways of one combined vector at a layer."""
        return {v.shown: self.every(combined(v, layer, self.tuned)) for v in VARIANTS}

    def tax(self, setting: Setting) -> float:
        """Return the share of correct next tokens that a setting loses on general text."""
        return tax(self.text[key_of(setting)], self.text[key_of(UNSTEERED)])

    def effects(self, direction: str, measure: str) -> list[list[Estimate]]:
        """Return how far each vector (rows) moves each behaviour (columns) from unsteered."""
        steered = [self.alone(name, self.layers.latest, direction) for name in self.names]
        return [
            [
                change([self.record(name, own)], [self.record(name, UNSTEERED)], measure)
                for name in self.names
            ]
            for own in steered
        ]
