"""The measurements of the experiment on traits, in their order: choose, then test."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from faststeer.data.trait_files import Trait
from faststeer.evaluate.records import Record, Setting, key_of
from faststeer.evaluate.sweeping import grid
from faststeer.evaluate.tasks import DocumentsTask, Task, Verdict
from faststeer.evaluate.trait_tasks import TraitsTask
from faststeer.experiments.estimates import TEXT
from faststeer.experiments.generations import GenerationTask
from faststeer.experiments.measure import Measure, Measured, Recorder, independent
from faststeer.experiments.search import search
from faststeer.experiments.settings import (
    ADD,
    DIRECTIONS,
    SUBTRACT,
    UNSTEERED,
    VARIANTS,
    Coefficients,
    Place,
    alone,
    combined,
)
from faststeer.experiments.traits.equal_tax import Comparison, Draws
from faststeer.experiments.traits.judge import TraitJudge
from faststeer.experiments.traits.prompts import openings
from faststeer.experiments.traits.protocol import Protocol
from faststeer.experiments.traits.results import COMBINED, SIMULTANEOUS, Results
from faststeer.experiments.traits.tune import Chosen, choose, perplexity_of
from faststeer.experiments.traits.vectors import random_directions
from faststeer.experiments.traits.ways import ORTHOGONAL, Layers, Way, common_way, tuned_way
from faststeer.vectors.steering_vector import SteeringVector

_AT_A_TIME = 48  # settings
PENALTY = 5.0  # one point more of tax has to gain five points of probability


@dataclass(frozen=True)
class LimitedPerplexity(DocumentsTask):
    """Scores on general text; a line ends above `limit` more perplexity than unsteered."""

    limit: float = math.inf

    def verdict(self, record: Record, unsteered: Record) -> Verdict:
        """Stop where the text is worse than the limit."""
        own, before = (perplexity_of(one) for one in (record, unsteered))
        return Verdict.STOP if own - before > self.limit else Verdict.CONTINUE


@dataclass(frozen=True)
class Measurements:
    """What is measured, on what, and into which files."""

    protocol: Protocol
    traits: Sequence[Trait]
    layers: Sequence[int]
    vectors: Mapping[str, SteeringVector]
    measure: Measure
    recorder: Recorder
    texts: Sequence[str]
    judge: TraitJudge

    def all(self) -> Results:
        """Choose on the validation part and half of the texts, then test on the rest."""
        chosen = self._chosen()
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
        generations = self._measured(
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

    def _chosen(self) -> Chosen:
        """Choose on settings that leave perplexity within its limit, from weak to strong."""
        signed = [sign * c for c in self.protocol.coefficients for sign in (1, -1)]
        allowed = LimitedPerplexity(
            {TEXT: self.texts[0::2]}, TEXT, self.protocol.text_tokens, self.protocol.perplexity
        )
        records: dict[str, Measured] = {}
        text: dict[str, Measured] = {}
        for trait in self.traits:
            lines = grid([self.vectors[trait.name]], self.layers, signed)
            text[trait.name] = self.measure(f"perplexity-{trait.name}", allowed, lines)
            there = [
                setting for line in lines for setting in line if key_of(setting) in text[trait.name]
            ]
            task = TraitsTask({trait.name: trait.validation})
            records[trait.name] = self._measured(f"validation-{trait.name}", task, there)
        return choose(records, text, self.layers, self.protocol.coefficients, self.protocol)

    def _ways(self, chosen: Chosen) -> dict[str, Way]:
        """Return the ways to steer all traits at once."""
        protocol, tuned = self.protocol, chosen.tuned
        one = dict.fromkeys(self.names, chosen.common)
        first = chosen.assignments[0]
        found = [
            tuned_way(COMBINED, one, tuned, protocol.scales),
            tuned_way(f"{COMBINED}, orthogonal", one, tuned, protocol.scales, suffix=ORTHOGONAL),
            self._searched(f"{COMBINED}, searched", one, chosen),
            tuned_way(SIMULTANEOUS, first, tuned, protocol.scales),
            tuned_way(
                f"{SIMULTANEOUS}, orthogonal", first, tuned, protocol.scales, suffix=ORTHOGONAL
            ),
            self._searched(f"{SIMULTANEOUS}, searched", first, chosen),
            common_way(f"{SIMULTANEOUS}, one coefficient", first, protocol.at_once),
        ]
        for number, layers in enumerate(chosen.assignments[1:], 2):
            shown = f"{SIMULTANEOUS}, assignment {number}"
            found += [
                tuned_way(shown, layers, tuned, protocol.scales),
                common_way(f"{shown}, one coefficient", layers, protocol.at_once),
            ]
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
            trait.name: self._measured(
                f"test-{trait.name}",
                TraitsTask({trait.name: trait.test}),
                wanted[trait.name],
            )
            for trait in self.traits
        }
        task = DocumentsTask({TEXT: self.texts[1::2]}, TEXT, self.protocol.text_tokens)
        text = self._measured(f"test-{TEXT}", task, every)
        counts = {trait.name: len(trait.test) for trait in self.traits}
        return Comparison(prompts, text, Draws(counts, len(self.texts[1::2])))

    def _searched(self, shown: str, layers: Layers, chosen: Chosen) -> Way:
        """Return a way with a coefficient per trait that was searched for at the budgeted tax.

        The search starts from the tuned coefficients, all scaled to where the way costs the budget
        on the choosing texts, and moves each trait's factor.
        """
        start = tuned_way(shown, layers, chosen.tuned, self.protocol.scales)
        scale = self._choosing([start], 0).strength_at(start, self.protocol.taxes[0])
        limit = self.protocol.taxes[0]

        def judge(choices: Sequence[Coefficients]) -> list[float]:
            ways = [tuned_way(shown, layers, chosen.tuned, [1.0], own) for own in choices]
            found = self._choosing(ways, self.protocol.items_searched)
            return [
                float(found.mean_at(way, 1.0)[0])
                - PENALTY * max(0.0, float(found.taxes(way)[0, 0]) - limit)
                for way in ways
            ]

        own = search(judge, dict.fromkeys(self.names, scale), scale / 2, self.protocol.rounds)
        return tuned_way(shown, layers, chosen.tuned, [0.5, 1.0, 1.5], own)

    def _choosing(self, ways: Sequence[Way], items: int) -> Comparison:
        """Measure ways on the choosing texts and on so many validation prompts per trait."""
        settings = [setting for way in ways for setting in way.every]
        text = self._measured(f"validation-{TEXT}", self._choosing_text, settings)
        prompts: dict[str, Measured] = {}
        if items:
            some = {
                trait.name: trait.validation[:: max(1, len(trait.validation) // items)][:items]
                for trait in self.traits
            }
            found = self._measured("search", TraitsTask(some), settings)
            prompts = dict.fromkeys(self.names, found)
            counts = {name: len(own) for name, own in some.items()}
        else:
            counts = {}
        return Comparison(prompts, text, Draws(counts, len(self._choosing_text.sets[TEXT]), 1))

    @property
    def _choosing_text(self) -> DocumentsTask:
        return DocumentsTask({TEXT: self.texts[0::2]}, TEXT, self.protocol.text_tokens)

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
            strength = self._choosing([ways[name]], 0).strength_at(
                ways[name], self.protocol.taxes[0]
            )
            [both] = tuned_way(name, layers, chosen.tuned, [strength]).settings
            shown |= zip((f"{name}, added", f"{name}, subtracted"), both, strict=True)
        return shown

    def _measured(self, file: str, task: Task, settings: Sequence[Setting]) -> Measured:
        """Measure settings a few at a time, so that an interrupted run keeps what it has."""
        lines = independent(settings)
        found: dict[str, Record] = {}
        for start in range(0, len(lines), _AT_A_TIME):
            found |= self.measure(file, task, lines[start : start + _AT_A_TIME])
        return found

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
