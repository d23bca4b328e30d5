"""All that was measured, before it is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from faststeer.evaluate.records import Record, Setting, key_of
from faststeer.experiments.several.asked import Asked
from faststeer.experiments.several.measuring import Found
from faststeer.experiments.several.protocol import SHOWN, Layers, Protocol
from faststeer.experiments.several.settings import UNSTEERED, Place, Tuned, alone, at_once
from faststeer.vectors.steering_vector import SteeringVector


@dataclass(frozen=True)
class Results:
    """Records are found by behaviour, then by `key_of` the setting.

    `validation`: each vector alone; `tuned`: the coefficients chosen there. `whole`: the global
    coefficient that was chosen, and `jointly` a coefficient each. `test`: every setting that is
    told, on questions that nothing was chosen on; `text`: of those, each vector alone and all at
    once, on general text; `freely`: what was said.
    """

    protocol: Protocol
    layers: Layers
    asked: Sequence[Asked]
    vectors: Mapping[str, SteeringVector]
    validation: Mapping[str, Found]
    tuned: Tuned
    whole: float
    jointly: Mapping[str, float]
    test: Mapping[str, Found]
    text: Found
    freely: Found

    @property
    def names(self) -> list[str]:
        """Of the behaviours."""
        return [own.name for own in self.asked]

    @property
    def shown(self) -> list[str]:
        """The same for people."""
        return [SHOWN[name] for name in self.names]

    def of(self, name: str, setting: Setting) -> Record:
        """A behaviour's answers on the test part."""
        return self.test[name][key_of(setting)]

    def every(self, setting: Setting) -> list[Record]:
        """All behaviours' answers on the test part."""
        return [self.of(name, setting) for name in self.names]

    def unsteered(self, name: str) -> Record:
        """As the model stands."""
        return self.of(name, UNSTEERED)

    def alone(self, name: str, layer: int, direction: str) -> Setting:
        """A vector alone with the coefficient that was chosen for it."""
        return alone(name, layer, self.tuned[Place(name, layer, direction)])

    def wholly(self, coefficient: float) -> Setting:
        """All vectors at once with one coefficient."""
        return at_once(self.layers.at_once, dict.fromkeys(self.names, coefficient))

    @property
    def joint(self) -> Setting:
        """All vectors at once with a coefficient each."""
        return at_once(self.layers.at_once, self.jointly)

    def text_of(self, setting: Setting) -> Record:
        """Next tokens of general text."""
        return self.text[key_of(setting)]
