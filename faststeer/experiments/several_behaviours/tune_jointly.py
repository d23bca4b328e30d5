"""Coefficients for all vectors at once, one for all and one each, on validation questions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from faststeer.evaluate.records import key_of
from faststeer.evaluate.tasks import ChoicesTask, DocumentsTask
from faststeer.experiments.measure import Measure, independent
from faststeer.experiments.several_behaviours.protocol import Layers, Protocol
from faststeer.experiments.several_behaviours.questions import BehaviourQuestions
from faststeer.experiments.several_behaviours.scores import PROBABILITY, TEXT, is_sound, tax
from faststeer.experiments.several_behaviours.settings import UNSTEERED, Coefficients, at_once

HIGHEST_TAX = 0.1  # of correct next tokens; a global coefficient that costs more is not chosen
PENALTY = 5.0  # one point more of tax has to gain five points of probability
_UNSOUND = -1.0

Judge = Callable[[Sequence[Coefficients]], list[float]]


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


def search(judge: Judge, start: Coefficients, step: float, rounds: int) -> dict[str, float]:
    """Return coefficients that a judge finds at least as good as the start.

    A pattern search (Hooke and Jeeves 1961): each coefficient is moved by a step either way, all
    in one call since settings that are measured together share work; then all of them together by
    what helped each alone. Where nothing helps, the step is halved.

    Args:
        judge: returns the value of each of several choices; larger is better.
        start: coefficients by name.
        step: that of the first round.
        rounds: the number of rounds.
    """
    best = dict(start)
    value = judge([best])[0]
    for _ in range(rounds):
        moves = [{**best, name: best[name] + by} for name in best for by in (step, -step)]
        values = judge(moves)
        helping = {}
        for number, name in enumerate(best):
            up, down = values[2 * number : 2 * number + 2]
            if max(up, down) > value:
                helping[name] = step if up >= down else -step
        if len(helping) > 1:
            together = [
                {name: c + scale * helping.get(name, 0.0) for name, c in best.items()}
                for scale in (0.5, 1.0, 2.0)
            ]
            moves += together
            values += judge(together)
        top = max(values)
        if top > value:
            value, best = top, dict(moves[values.index(top)])
        else:
            step /= 2
    return {name: round(c, 10) for name, c in best.items()}
