"""Probes of requests that follow or accompany each other: coefficients, load, neighbours."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from faststeer.diagnostics.conform.distance import distance
from faststeer.diagnostics.conform.referee import (
    PROMPTS,
    InconclusiveError,
    NotApplicableError,
    Outcome,
    Referee,
)
from faststeer.diagnostics.conform.subject import Answer, Ask, Setting

_ROUNDS = 3  # of the same requests in other orders
_COEFFICIENTS = 40  # more than tables of fixed size usually hold
_AT_ONCE = 8


def coefficient(referee: Referee) -> Outcome:
    """Does a request's own coefficient count, and not an earlier request's?

    The failure: a coefficient that stays, or that arrives one request late. Each is asked for
    twice, and 0 must mean no steering.
    """
    referee.require_coefficients()
    effect = referee.require_base_effect()
    factors = (1.0, 1.0, -1.0, -1.0, 0.0, 0.0, 1.0)
    asks = [referee.ask(setting=referee.setting(factor=factor)) for factor in factors]
    answers = [referee.answer(ask) for ask in asks]
    measured = {
        "effect": effect,
        "the coefficient and its negative": distance(answers[0], answers[2]),
        "0 and unsteered": distance(answers[4], referee.unsteered()),
    }
    values = [str(ask.setting) for ask in asks]
    for at, first in ((1, 0), (3, 2), (5, 4), (6, 0)):
        if not referee.equal(answers[at], answers[first], f"{values[at]}, repeated"):
            return Outcome(
                False, f"{values[at]} has another answer the second time, at request {at}", measured
            )
    if referee.equal(answers[0], answers[2], "a coefficient and its negative"):
        return Outcome(False, f"{values[2]} has the answer of {values[0]}", measured)
    if not referee.equal(answers[4], referee.unsteered(), "a coefficient of 0"):
        return Outcome(False, "a coefficient of 0 does not have the unsteered answer", measured)
    return Outcome(True, f"{len(asks)} requests have each its own coefficient", measured)


def many_coefficients(referee: Referee) -> Outcome:
    """Is the fortieth coefficient as good as the first?

    The failure: a table of fixed size is full, and later requests are unsteered.
    """
    referee.require_coefficients()
    effect = referee.require_base_effect()
    factors = [1 + at / _COEFFICIENTS for at in range(_COEFFICIENTS)]
    asks = [referee.ask(setting=referee.setting(factor=own)) for own in factors]
    least = effect
    for start in range(0, len(asks), _AT_ONCE):
        group = asks[start : start + _AT_ONCE]
        for at, answer in enumerate(referee.answers(group), start):
            least = min(least, distance(answer, referee.unsteered()))
            if referee.equal(answer, referee.unsteered(), f"coefficient {at + 1}"):
                return Outcome(
                    False,
                    f"{asks[at].setting}, the coefficient number {at + 1}, has the unsteered "
                    "answer",
                    {"effect": effect, "least effect": least},
                )
    again = referee.answer(asks[0])
    if not referee.equal(again, referee.steered(), "the first coefficient again"):
        return Outcome(
            False,
            f"{asks[0].setting} has another answer after {_COEFFICIENTS} coefficients",
            {"effect": effect, "distance": distance(again, referee.steered())},
        )
    return Outcome(
        True,
        f"{_COEFFICIENTS} coefficients act, {_AT_ONCE} at a time",
        {"effect": effect, "least effect": least},
    )


def load(referee: Referee) -> Outcome:
    """Does each of many simultaneous requests get its own steering?

    The failure: rows of a batch are exchanged while requests come and go. Prompts and settings
    differ, and so do lengths, so that requests leave the batch one by one.
    """
    if referee.other is None:
        raise NotApplicableError("requests have no second setting, and no coefficient")
    effect = referee.require_base_effect()
    settings = [referee.setting(), referee.other]
    if referee.subject.coefficients:
        settings += [referee.setting(factor=factor) for factor in (-1.0, 0.5)]
    settings = list(dict.fromkeys(settings))
    pairs = [(prompt, setting) for prompt in PROMPTS for setting in settings]
    references = {pair: referee.steered(*pair) for pair in pairs}
    # Texts without tokens cannot be cut, and are compared whole.
    shorter = referee.tokens - 2 if all(own.tokens for own in references.values()) else 0
    asks = [
        replace(referee.ask(*pair), tokens=3 + at * 5 % shorter) if shorter else referee.ask(*pair)
        for at, pair in enumerate(pairs)
    ]
    seen = sum(_would_show(referee, ask, settings, references) for ask in asks)
    if not seen:
        raise InconclusiveError("the settings have answers alike, so an exchange would not show")
    furthest = 0.0
    for shuffled in _orders(asks):
        for ask, answer in zip(shuffled, referee.answers(shuffled), strict=True):
            own = references[ask.prompt, _of(ask)].first(ask.tokens)
            furthest = max(furthest, distance(own, answer))
            if not referee.equal(own, answer, f"{ask.setting} among {len(asks)} requests"):
                like = [
                    str(setting)
                    for setting in settings
                    if distance(references[ask.prompt, setting], answer) <= referee.limits.same
                ]
                of = f", that of {like[0]}" if like else ""
                return Outcome(
                    False,
                    f"{ask.setting} has another answer among {len(asks)} requests{of}",
                    {"distance": furthest, "effect": effect},
                )
    return Outcome(
        True,
        f"{_ROUNDS} times {len(asks)} requests have each its own steering; an exchange would show "
        f"in {seen}",
        {"distance": furthest, "effect": effect},
    )


def neighbours(referee: Referee) -> Outcome:
    """Are unsteered requests unsteered, after steered ones and among them?

    The failure: the steering of one request reaches the answer of another one.
    """
    effect = referee.require_base_effect()
    referee.answer(referee.ask(setting=referee.setting()))
    after = referee.answer(referee.ask())
    if not referee.equal(after, referee.unsteered(), "an unsteered request after a steered one"):
        return Outcome(
            False,
            "an unsteered request after a steered one does not have the unsteered answer",
            {"distance": distance(after, referee.unsteered()), "effect": effect},
        )
    asks = [
        referee.ask(prompt, setting)
        for prompt in PROMPTS
        for setting in (referee.setting(), None, None)
    ]
    furthest = 0.0
    for shuffled in _orders(asks):
        for ask, answer in zip(shuffled, referee.answers(shuffled), strict=True):
            reference = referee.reference(ask)
            furthest = max(furthest, distance(answer, reference))
            which = "an unsteered" if ask.setting is None else "a steered"
            if not referee.equal(answer, reference, f"{which} request among others"):
                return Outcome(
                    False,
                    f"{which} request has another answer among steered and unsteered ones",
                    {"distance": furthest, "effect": effect},
                )
    return Outcome(
        True,
        f"{_ROUNDS} times {len(asks)} requests, steered and not, have the answers that they have "
        "alone",
        {"distance": furthest, "effect": effect},
    )


def _orders(asks: Sequence[Ask]) -> list[list[Ask]]:
    shuffle = random.Random(0)
    return [shuffle.sample(asks, len(asks)) for _ in range(_ROUNDS)]


def _would_show(
    referee: Referee,
    ask: Ask,
    settings: Sequence[Setting],
    references: dict[tuple[str, Setting], Answer],
) -> bool:
    own = references[ask.prompt, _of(ask)].first(ask.tokens)
    return any(
        referee.differ(own, references[ask.prompt, setting].first(ask.tokens))
        for setting in settings
        if setting != ask.setting
    )


def _of(ask: Ask) -> Setting:
    assert ask.setting is not None  # of requests of `load`, all of which are steered
    return ask.setting
