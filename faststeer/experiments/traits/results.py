"""All measurements of the experiment on traits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from faststeer.data.trait_files import Trait
from faststeer.evaluate.records import Record, Setting, key_of
from faststeer.experiments.estimates import TEXT, Estimate
from faststeer.experiments.measure import Measured
from faststeer.experiments.settings import ADD, SUBTRACT, UNSTEERED, Place, Variant, alone
from faststeer.experiments.traits.equal_tax import Comparison, estimate_of, probabilities
from faststeer.experiments.traits.protocol import Protocol
from faststeer.experiments.traits.tune import Chosen, perplexity_of
from faststeer.experiments.traits.ways import Way
from faststeer.vectors.steering_vector import SteeringVector

COMBINED, SIMULTANEOUS = "combined at one layer", "simultaneous, each at its layer"


@dataclass(frozen=True)
class Results:
    """What the tables and figures show.

    `compared`: the records on the test part. `ways`: of all traits at once, by their names;
    `variants`: the eight combined vectors of the paper. `randoms`: per trait, the records of random
    directions added and subtracted. `growth`: by number of traits, the combined and the
    simultaneous way of each order. `generations`: the records of generated texts, `judged` by how
    likely each text shows each trait, `accuracy` of that judge.
    """

    protocol: Protocol
    traits: Sequence[Trait]
    layers: Sequence[int]
    vectors: Mapping[str, SteeringVector]
    chosen: Chosen
    compared: Comparison
    ways: Mapping[str, Way]
    variants: Mapping[Variant, Setting]
    randoms: Mapping[str, Sequence[tuple[Record, Record]]]
    growth: Mapping[int, Sequence[tuple[Way, Way]]]
    shown: Mapping[str, Setting]
    generations: Measured
    judged: Mapping[str, Mapping[str, Sequence[float | None]]]
    accuracy: Mapping[str, float]

    @property
    def names(self) -> list[str]:
        """The names of the traits."""
        return [trait.name for trait in self.traits]

    @property
    def budget(self) -> float:
        """The tax at which the verdict compares."""
        return self.protocol.taxes[0]

    def alone(self, name: str, direction: str, layer: int | None = None) -> Setting:
        """Return the setting of a vector alone with its tuned coefficient, at its best layer."""
        at = self.chosen.best[name] if layer is None else layer
        return alone(name, at, self.chosen.tuned[Place(name, at, direction)])

    def record(self, trait: str, setting: Setting) -> Record:
        """Return the scores of a trait's test prompts under a setting."""
        return self.compared.prompts[trait][key_of(setting)]

    def probability(self, trait: str, setting: Setting) -> Estimate:
        """Return a trait's mean matching probability on the test part."""
        values = probabilities(self.record(trait, setting), trait)
        return estimate_of(self.compared.draws.mean(trait, values))

    def alone_gain(self, name: str) -> Tensor:
        """Return adding minus subtracting a vector alone, on its own trait: the draws ``[D]``."""
        both = (self.alone(name, direction) for direction in (ADD, SUBTRACT))
        return self.compared.draws.mean(name, self.compared.gain(name, *both))

    def effect(self, vector: str, trait: str) -> Tensor:
        """Return adding minus subtracting a vector alone, on any trait: the draws ``[D]``."""
        both = (self.alone(vector, direction) for direction in (ADD, SUBTRACT))
        return self.compared.draws.mean(trait, self.compared.gain(trait, *both))

    def random_gains(self, name: str) -> list[float]:
        """Return how far each random direction moves a trait, of either sign."""
        return [
            abs(float((probabilities(high, name) - probabilities(low, name)).mean()))
            for high, low in self.randoms[name]
        ]

    def perplexity(self, setting: Setting) -> float:
        """Return the perplexity of general text; infinite where it overflows."""
        return perplexity_of(self.compared.text[key_of(setting)])

    def kl(self, setting: Setting) -> float:
        """Return KL(unsteered || steered) per token of general text, in nats."""
        found: float | None = self.compared.text[key_of(setting)]["scores"][TEXT]["kl"]
        return float("inf") if found is None else found

    def tax(self, setting: Setting) -> float:
        """Return the share of correct next tokens that is lost on general text."""
        own, before = (
            self.compared.text[key_of(one)]["scores"][TEXT]["accuracy"]
            for one in (setting, UNSTEERED)
        )
        return 1 - own / before if before else 0.0

    def is_movable(self, name: str) -> bool:
        """Return whether a trait's own vector steers it and text stays what it was.

        At least half a point of probability between adding and subtracting, with an interval above
        zero; four times as far as random directions; perplexity within 1.5 of unsteered.
        """
        gain = estimate_of(self.alone_gain(name))
        moved = self.random_gains(name)
        before = self.perplexity(UNSTEERED)
        worst = max(self.perplexity(self.alone(name, one)) for one in (ADD, SUBTRACT))
        return (
            gain.value >= 0.5
            and gain.low > 0
            and gain.value >= 4 * sum(moved) / len(moved)
            and worst <= before + 1.5
        )
