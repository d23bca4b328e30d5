"""All vectors at once: one coefficient for all, and one for each, chosen on what is not tested."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from faststeer.evaluate.records import Setting, key_of
from faststeer.experiments.several.asked import Asked
from faststeer.experiments.several.jointly import searched
from faststeer.experiments.several.measuring import Bench, Found
from faststeer.experiments.several.protocol import Layers, Protocol
from faststeer.experiments.several.scored import PROBABILITY, is_sound, tax
from faststeer.experiments.several.settings import UNSTEERED, Coefficients, at_once

DEAREST = 0.1  # of right next tokens; a global coefficient that costs more is not chosen
PENALTY = 5.0  # a tax of one point more has to bring five points of probability
_UNSOUND = -1.0


@dataclass(frozen=True)
class Chooser:
    """Judges settings of all vectors at once by questions and texts kept for that.

    What counts is the mean probability of the matching options: on so few questions greedy answers
    are too coarse to tell small steps apart.
    """

    bench: Bench
    asked: Sequence[Asked]
    layers: Layers
    protocol: Protocol
    texts: Sequence[str]

    def whole(self) -> float:
        """The global coefficient with the highest mean probability.

        Of those that neither spoil the answers nor cost more than `DEAREST`; where all do, the
        smallest.
        """
        choices = [c for c in self.protocol.at_once if c]
        values = self._values([self._same(c) for c in choices], DEAREST, allowed=False)
        best = max(values)
        return choices[values.index(best)] if best > _UNSOUND else min(choices, key=abs)

    def jointly(self, whole: float) -> dict[str, float]:
        """A coefficient a behaviour, searched for from the global one at no higher tax."""
        start = self._same(whole)
        limit = self._taxes([self._setting(start)])[0]
        step = abs(whole) / 2

        def judge(choices: Sequence[Coefficients]) -> list[float]:
            return self._values(choices, limit, allowed=True)

        return searched(judge, start, step, self.protocol.rounds)

    def _values(self, choices: Sequence[Coefficients], limit: float, allowed: bool) -> list[float]:
        """Mean probabilities; what costs more than the limit is out, or `allowed` at a price."""
        settings = [self._setting(own) for own in choices]
        found = self._found(settings)
        values = []
        for setting, own_tax in zip(settings, self._taxes(settings), strict=True):
            records = [(own[key_of(setting)], own[key_of(UNSTEERED)]) for own in found]
            excess = max(0.0, own_tax - limit)
            if not all(is_sound(*both) for both in records) or (excess and not allowed):
                values.append(_UNSOUND)
                continue
            mean = sum(own["scores"][PROBABILITY] or 0.0 for own, _ in records) / len(records)
            values.append(mean - PENALTY * excess)
        return values

    def _found(self, settings: Sequence[Setting]) -> list[Found]:
        items = self.protocol.items_at_once
        return [
            self.bench.answers("at-once", own.name, own.validation[:items], settings)
            for own in self.asked
        ]

    def _taxes(self, settings: Sequence[Setting]) -> list[float]:
        found = self.bench.texts("at-once", self.texts, self.protocol.text_tokens, settings)
        return [tax(found[key_of(own)], found[key_of(UNSTEERED)]) for own in settings]

    def _same(self, coefficient: float) -> dict[str, float]:
        return {own.name: coefficient for own in self.asked}

    def _setting(self, coefficients: Coefficients) -> Setting:
        return at_once(self.layers.at_once, coefficients)
