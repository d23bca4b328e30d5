"""Choosing layers and strengths on the validation part, and on texts kept for that."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from faststeer.data.trait_files import Trait
from faststeer.evaluate.records import Record, key_of
from faststeer.evaluate.sweeping import grid
from faststeer.evaluate.tasks import DocumentsTask, Verdict
from faststeer.evaluate.trait_tasks import TraitsTask
from faststeer.experiments.estimates import TEXT
from faststeer.experiments.measure import Measure, Measured, measured_settings
from faststeer.experiments.search import search
from faststeer.experiments.settings import Coefficients
from faststeer.experiments.traits.equal_tax import Comparison, Draws
from faststeer.experiments.traits.protocol import Protocol
from faststeer.experiments.traits.tune import Chosen, choose, perplexity_of
from faststeer.experiments.traits.ways import Layers, Way, tuned_way
from faststeer.vectors.steering_vector import SteeringVector

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
class Choosing:
    """Measures settings on validation prompts, and on `texts`, for choices."""

    protocol: Protocol
    traits: Sequence[Trait]
    texts: Sequence[str]
    measure: Measure

    def chosen(self, vectors: Mapping[str, SteeringVector], layers: Sequence[int]) -> Chosen:
        """Choose on settings that leave perplexity within its limit, from weak to strong."""
        signed = [sign * c for c in self.protocol.coefficients for sign in (1, -1)]
        allowed = LimitedPerplexity(
            {TEXT: self.texts}, TEXT, self.protocol.text_tokens, self.protocol.perplexity
        )
        records: dict[str, Measured] = {}
        text: dict[str, Measured] = {}
        for trait in self.traits:
            lines = grid([vectors[trait.name]], layers, signed)
            text[trait.name] = self.measure(f"perplexity-{trait.name}", allowed, lines)
            there = [
                setting for line in lines for setting in line if key_of(setting) in text[trait.name]
            ]
            task = TraitsTask({trait.name: trait.validation})
            records[trait.name] = measured_settings(
                self.measure, f"validation-{trait.name}", task, there
            )
        return choose(records, text, layers, self.protocol.coefficients, self.protocol)

    def strength(self, way: Way) -> float:
        """Return the strength at which a way costs the budgeted tax, at most its greatest."""
        return self._compared([way], 0).strength_at(way, self.protocol.taxes[0])

    def searched(self, shown: str, layers: Layers, chosen: Chosen) -> Way:
        """Return a way with a coefficient per trait that was searched for at the budgeted tax.

        The search starts from the tuned coefficients, all scaled to where the way costs the budget
        on the choosing texts, and moves each trait's factor.
        """
        start = tuned_way(shown, layers, chosen.tuned, self.protocol.scales)
        scale = self.strength(start)
        limit = self.protocol.taxes[0]

        def judge(choices: Sequence[Coefficients]) -> list[float]:
            ways = [tuned_way(shown, layers, chosen.tuned, [1.0], own) for own in choices]
            found = self._compared(ways, self.protocol.items_searched)
            return [
                float(found.mean_at(way, 1.0)[0])
                - PENALTY * max(0.0, float(found.taxes(way)[0, 0]) - limit)
                for way in ways
            ]

        own = search(judge, dict.fromkeys(layers, scale), scale / 2, self.protocol.rounds)
        return tuned_way(shown, layers, chosen.tuned, [0.5, 1.0, 1.5], own)

    def _compared(self, ways: Sequence[Way], items: int) -> Comparison:
        """Measure ways on the choosing texts and on so many validation prompts per trait."""
        task = DocumentsTask({TEXT: self.texts}, TEXT, self.protocol.text_tokens)
        settings = [setting for way in ways for setting in way.every]
        text = measured_settings(self.measure, f"validation-{TEXT}", task, settings)
        prompts: dict[str, Measured] = {}
        if items:
            some = {
                trait.name: trait.validation[:: max(1, len(trait.validation) // items)][:items]
                for trait in self.traits
            }
            found = measured_settings(self.measure, "search", TraitsTask(some), settings)
            prompts = dict.fromkeys(some, found)
            counts = {name: len(own) for name, own in some.items()}
        else:
            counts = {}
        return Comparison(prompts, text, Draws(counts, len(self.texts), 1))
