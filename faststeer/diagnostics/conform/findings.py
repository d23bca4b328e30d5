"""Findings of probes: a verdict, what was measured, and the requests that show it."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from faststeer.diagnostics.conform.subject import Answer, Ask, Reply

_LONGEST = 3  # tokens whose log probabilities a report shows


class Verdict(enum.Enum):
    """The outcome of a probe."""

    PASSED = "passed"
    FAILED = "failed"
    INCONCLUSIVE = "inconclusive"  # a wrong outcome would not have been seen
    NOT_APPLICABLE = "not applicable"  # the subject offers nothing of the kind, or refuses it


@dataclass(frozen=True)
class Exchange:
    """A request and its response."""

    ask: Ask
    reply: Reply

    def as_json(self) -> dict[str, Any]:
        """Return it for a report: the request as it was sent, and the answers."""
        return {
            "steering": None if self.ask.setting is None else str(self.ask.setting),
            "request": dict(self.reply.request),
            "answers": [_answer(own) for own in self.reply.answers],
        }


def _answer(answer: Answer) -> dict[str, Any]:
    shown: dict[str, Any] = {"text": answer.text}
    if answer.logprobs:
        shown["first_logprobs"] = [
            {token: round(value, 5) for token, value in own.items()}
            for own in answer.logprobs[:_LONGEST]
        ]
    return shown


@dataclass(frozen=True)
class Finding:
    """The result of one probe.

    Args:
        probe: its name.
        verdict: what it found.
        reason: the same in a sentence.
        measured: numbers that the verdict rests on, in nats unless their names say otherwise.
        exchanges: the requests that show it, in the order in which they were made.
    """

    probe: str
    verdict: Verdict
    reason: str
    measured: Mapping[str, float] = field(default_factory=dict)
    exchanges: tuple[Exchange, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return it for a report. Requests are listed where something failed."""
        facts: dict[str, Any] = {
            "probe": self.probe,
            "verdict": self.verdict.value,
            "reason": self.reason,
            "measured": {name: round(own, 6) for name, own in self.measured.items()},
        }
        if self.verdict is Verdict.FAILED:
            facts["exchanges"] = [own.as_json() for own in self.exchanges]
        return facts
