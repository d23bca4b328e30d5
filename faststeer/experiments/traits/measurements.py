"""The measurements of the experiment on traits, in their order: choose, then test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from faststeer.data.trait_files import Trait
from faststeer.evaluate.records import Record, Setting, key_of
from faststeer.evaluate.tasks import DocumentsTask
from faststeer.evaluate.trait_tasks import TraitsTask
from faststeer.experiments.estimates import TEXT
from faststeer.experiments.generations import GenerationTask
from faststeer.experiments.measure import Measure, Recorder, independent, measured_settings
from faststeer.experiments.settings import (
    ADD,
    DIRECTIONS,
    SUBTRACT,
    UNSTEERED,
    VARIANTS,
    Place,
    alone,
    combined,
)
from faststeer.experiments.traits.choosing import Choosing
from faststeer.experiments.traits.equal_tax import Comparison, Draws
from faststeer.experiments.traits.judge import TraitJudge
from faststeer.experiments.traits.prompts import openings
from faststeer.experiments.traits.protocol import Protocol
from faststeer.experiments.traits.results import COMBINED, SIMULTANEOUS, Results
from faststeer.experiments.traits.tune import Chosen
from faststeer.experiments.traits.vectors import random_directions
from faststeer.experiments.traits.ways import ORTHOGONAL, Way, common_way, tuned_way
from faststeer.vectors.steering_vector import SteeringVector


@dataclass(frozen=True)
class Measurements:
    """What is measured, on what, and into which files; `texts` are those of the test."""

    protocol: Protocol
    traits: Sequence[Trait]
    layers: Sequence[int]
    vectors: Mapping[str, SteeringVector]
    measure: Measure
    recorder: Recorder
    texts: Sequence[str]
    judge: TraitJudge
    choosing: Choosing

    def all(self) -> Results:
        """Choose on the validation part and half of the texts, then test on the rest."""
        chosen = self.choosing.chosen(self.vectors, self.layers)
        ways = self._ways(chosen)
        growth = self._growth(chosen)
        variants = {one: combined(one, chosen.common, chosen.tuned) for one in VARIANTS}
        singly = [
            alone(name, layer, chosen.tuned[Place(name, layer, direction)])
            for name in self.names
            for layer in dict.fromkeys([chosen.best[name], chosen.common])
            for direction in DIRECTIONS
        ]
        together = [setting for way in ways.values() for setting in way.every]
        compared = self._compared([*singly, *variants.values(), *together], growth)
        shown = self._shown(chosen, ways)
        generations = measured_settings(
            self.measure,
            "continuations",
            GenerationTask(openings(self.protocol.prompts), self.protocol.new_tokens),
            list(shown.values()),
        )
        with self.recorder.subject.patched.off():
            judged = {
                key: self.judge.probabilities(record["items"]["texts"])
                for key, record in generations.items()
            }
        return Results(
            self.protocol,
            self.traits,
            self.layers,
            self.vectors,
            chosen,
            compared,
            ways,
            variants,
            {name: self._random(name, chosen) for name in self.names},
            growth,
            shown,
            generations,
            judged,
            self.judge.accuracy,
        )

    @property
    def names(self) -> list[str]:
        """The names of the traits."""
        return [trait.name for trait in self.traits]

    def _ways(self, chosen: Chosen) -> dict[str, Way]:
        """Return the ways to steer all traits at once."""
        protocol, tuned = self.protocol, chosen.tuned
        one = dict.fromkeys(self.names, chosen.common)
        first = chosen.assignments[0]
        found = [
            tuned_way(COMBINED, one, tuned, protocol.scales),
            tuned_way(f"{COMBINED}, orthogonal", one, tuned, protocol.scales, suffix=ORTHOGONAL),
            self.choosing.searched(f"{COMBINED}, searched", one, chosen),
            tuned_way(SIMULTANEOUS, first, tuned, protocol.scales),
            tuned_way(
                f"{SIMULTANEOUS}, orthogonal", first, tuned, protocol.scales, suffix=ORTHOGONAL
            ),
            self.choosing.searched(f"{SIMULTANEOUS}, searched", first, chosen),
            common_way(f"{SIMULTANEOUS}, one coefficient", first, protocol.at_once),
        ]
        for number, layers in enumerate(chosen.assignments[1:], 2):
            shown = f"{SIMULTANEOUS}, assignment {number}"
            found.append(tuned_way(shown, layers, tuned, protocol.scales))
        return {way.shown: way for way in found}

    def _growth(self, chosen: Chosen) -> dict[int, list[tuple[Way, Way]]]:
        """Return, by number of traits, the combined and the simultaneous way of each order."""
        count, orders = len(self.names), self.protocol.orders
        starts = sorted({number * count // orders for number in range(orders)})
        found: dict[int, list[tuple[Way, Way]]] = {}
        for size in range(1, count + 1):
            # A single trait by each way is measured for all of them, all traits once.
            begins = range(count) if size == 1 else starts if size < count else [0]
            found[size] = [
                self._both(tuple((begin + at) % count for at in range(size)), chosen)
                for begin in begins
            ]
        return found

    def _both(self, numbers: tuple[int, ...], chosen: Chosen) -> tuple[Way, Way]:
        names = [self.names[number] for number in sorted(numbers)]
        one = dict.fromkeys(names, chosen.common)
        own = {name: chosen.assignments[0][name] for name in names}
        if len(names) == 1:  # alone, each layer is free
            own = {name: chosen.best[name] for name in names}
        whole = len(names) == len(self.names)
        scales = self.protocol.scales if whole else self.protocol.growth
        return tuned_way(COMBINED, one, chosen.tuned, scales), tuned_way(
            SIMULTANEOUS, own, chosen.tuned, scales
        )

    def _compared(
        self, settings: Sequence[Setting], growth: Mapping[int, Sequence[tuple[Way, Way]]]
    ) -> Comparison:
        """Measure settings of all traits on all test prompts, and those of a few on theirs."""
        wanted: dict[str, list[Setting]] = {name: list(settings) for name in self.names}
        every = list(settings)
        for ways in growth.values():
            for way in (one for both in ways for one in both):
                every += way.every
                for name in way.traits:
                    wanted[name] += way.every
        prompts = {
            trait.name: measured_settings(
                self.measure,
                f"test-{trait.name}",
                TraitsTask({trait.name: trait.test}),
                wanted[trait.name],
            )
            for trait in self.traits
        }
        task = DocumentsTask({TEXT: self.texts}, TEXT, self.protocol.text_tokens)
        text = measured_settings(self.measure, f"test-{TEXT}", task, every)
        counts = {trait.name: len(trait.test) for trait in self.traits}
        return Comparison(prompts, text, Draws(counts, len(self.texts)))

    def _shown(self, chosen: Chosen, ways: Mapping[str, Way]) -> dict[str, Setting]:
        """Return the settings under which texts are generated, by their names in tables.

        Several vectors are as strong as the budgeted tax permits on the choosing texts.
        """
        shown: dict[str, Setting] = {"unsteered": UNSTEERED}
        for trait in self.traits:
            layer = chosen.best[trait.name]
            for direction, side in ((ADD, trait.positive), (SUBTRACT, trait.negative)):
                own = chosen.tuned[Place(trait.name, layer, direction)]
                shown[f"{trait.name}: {side}"] = alone(trait.name, layer, own)
        for name, layers in (
            (COMBINED, dict.fromkeys(self.names, chosen.common)),
            (SIMULTANEOUS, chosen.assignments[0]),
        ):
            strength = self.choosing.strength(ways[name])
            [both] = tuned_way(name, layers, chosen.tuned, [strength]).settings
            shown |= zip((f"{name}, added", f"{name}, subtracted"), both, strict=True)
        return shown

    def _random(self, name: str, chosen: Chosen) -> list[tuple[Record, Record]]:
        """Measure random directions at a trait's best layer and dose, on its own prompts."""
        layer = chosen.best[name]
        vectors = random_directions(self.vectors[name], layer, self.protocol.randoms)
        trait = next(own for own in self.traits if own.name == name)
        added, subtracted = (
            [alone(own.name, layer, chosen.tuned[Place(name, layer, direction)]) for own in vectors]
            for direction in (ADD, SUBTRACT)
        )
        found = self.recorder.measure(
            f"random-{name}",
            TraitsTask({name: trait.test}),
            independent([*added, *subtracted]),
            vectors,
        )
        return [
            (found[key_of(high)], found[key_of(low)])
            for high, low in zip(added, subtracted, strict=True)
        ]
