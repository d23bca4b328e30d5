"""Coefficients for all vectors at once, one for all and one each, on validation questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from faststeer.evaluate.records import key_of
from faststeer.evaluate.tasks import ChoicesTask, DocumentsTask
from faststeer.experiments.estimates import TEXT, tax
from faststeer.experiments.measure import Measure, independent
from faststeer.experiments.search import search
from faststeer.experiments.settings import UNSTEERED, Coefficients, at_once
from faststeer.experiments.several_behaviours.protocol import Layers, Protocol
from faststeer.experiments.several_behaviours.questions import BehaviourQuestions
from faststeer.experiments.several_behaviours.scores import PROBABILITY, is_sound

HIGHEST_TAX = 0.1  # of correct next tokens; a global coefficient that costs more is not chosen
PENALTY = 5.0  # one point more of tax has to gain five points of probability
_UNSOUND = -1.0


@dataclass(frozen=True)
class JointTuning:
    """Judges settings of all vectors at once on questions and texts kept for that.

    The criterion is the mean probability of the matching options: on so few questions greedy
    answers are too coarse to show small steps.
    """

    measure: Measure
    questions: Sequence[BehaviourQuestions]
    layers: Layers
    protocol: Protocol
    texts: Sequence[str]

    def globally(self) -> float:
        """Return the global coefficient with the highest mean probability.

        Of those with sound answers and a tax of at most `HIGHEST_TAX`; without any, the smallest.
        """
        choices = [c for c in self.protocol.at_once if c]
        values = self._values([self._same(c) for c in choices], HIGHEST_TAX, strict=True)
        best = max(values)
        return choices[values.index(best)] if best > _UNSOUND else min(choices, key=abs)

    def jointly(self, whole: float) -> dict[str, float]:
        """Return a coefficient per behaviour, searched for from the global one at its tax."""
        start = self._same(whole)
        limit = self._taxes([start])[0]

        def judge(choices: Sequence[Coefficients]) -> list[float]:
            return self._values(choices, limit, strict=False)

        return search(judge, start, abs(whole) / 2, self.protocol.rounds)

    def _values(self, choices: Sequence[Coefficients], limit: float, strict: bool) -> list[float]:
        """Return mean probabilities; a tax above the limit is excluded (strict) or penalised."""
        settings = [at_once(self.layers.at_once, own) for own in choices]
        found = [
            self.measure(
                f"at-once-{own.name}",
                ChoicesTask(own.name, own.validation[: self.protocol.items_at_once]),
                independent(settings),
            )
            for own in self.questions
        ]
        values = []
        for setting, own_tax in zip(settings, self._taxes(choices), strict=True):
            records = [(own[key_of(setting)], own[key_of(UNSTEERED)]) for own in found]
            excess = max(0.0, own_tax - limit)
            if not all(is_sound(*both) for both in records) or (excess and strict):
                values.append(_UNSOUND)
                continue
            mean = sum(own["scores"][PROBABILITY] or 0.0 for own, _ in records) / len(records)
            values.append(mean - PENALTY * excess)
        return values

    def _taxes(self, choices: Sequence[Coefficients]) -> list[float]:
        settings = [at_once(self.layers.at_once, own) for own in choices]
        task = DocumentsTask({TEXT: self.texts}, TEXT, self.protocol.text_tokens)
        found = self.measure(f"at-once-{TEXT}", task, independent(settings))
        return [tax(found[key_of(own)], found[key_of(UNSTEERED)]) for own in settings]

    def _same(self, coefficient: float) -> dict[str, float]:
        return {own.name: coefficient for own in self.questions}
