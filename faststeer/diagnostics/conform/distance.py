"""How far apart two answers are, and how far they may be."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from faststeer.diagnostics.conform.subject import Answer

_SMALLEST = 2e-3  # nats: what different kernels of one model may differ by in float32, with room
_VISIBLE = 5  # times the limit of equality


def distance(first: Answer, second: Answer) -> float:
    """Return the largest difference of log probabilities, in nats.

    Tokens are compared for as long as both answers have chosen the same ones before, so that their
    contexts are equal; comparison stops at a token whose text is ambiguous. Where one answer's
    token is not among the other's likeliest, the least by which it must differ counts. Answers
    without log probabilities are 0 or 1 apart, by their text.
    """
    if not first.logprobs or not second.logprobs:
        return float(first.text != second.text)
    largest = 0.0
    for own, other, chosen, chosen_by_other in zip(
        first.logprobs, second.logprobs, first.tokens, second.tokens, strict=False
    ):
        largest = max(largest, _at_one_token(own, other, chosen, chosen_by_other))
        if chosen != chosen_by_other or not names_one_token(chosen):
            break
    return largest


def _at_one_token(
    own: Mapping[str, float], other: Mapping[str, float], chosen: str, chosen_by_other: str
) -> float:
    own, other = _named(own), _named(other)
    common = [abs(own[token] - other[token]) for token in own.keys() & other.keys()]
    floors = (_floor(other, chosen_by_other), _floor(own, chosen))
    missing = [
        value - floor
        for values, others, floor in ((own, other, floors[0]), (other, own, floors[1]))
        for token, value in values.items()
        if token not in others and math.isfinite(value - floor)
    ]
    return max([0.0, *common, *missing])


def _named(logprobs: Mapping[str, float]) -> dict[str, float]:
    return {token: own for token, own in logprobs.items() if names_one_token(token)}


def names_one_token(text: str) -> bool:
    """Return whether no other token can have the same text, as parts of characters have."""
    return bool(text) and "\ufffd" not in text


def _floor(logprobs: Mapping[str, float], chosen: str) -> float:
    """Return a value that no token which is not listed exceeds.

    A sampled token is listed without being among the likeliest, so it does not count.
    """
    return min((own for token, own in logprobs.items() if token != chosen), default=math.inf)


@dataclass(frozen=True)
class Limits:
    """When two answers are equal, and when they visibly differ; there is no verdict between.

    `noise`: how far equal requests were apart, alone and among others, in nats.
    """

    noise: float

    @property
    def same(self) -> float:
        """The most by which equal answers differ."""
        return max(_SMALLEST, 3 * self.noise)

    @property
    def visible(self) -> float:
        """The least by which a wrong answer has to differ to be seen."""
        return _VISIBLE * self.same
