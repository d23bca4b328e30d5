"""Run all probes on a subject."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from faststeer.diagnostics.conform.batch_probes import (
    coefficient,
    load,
    many_coefficients,
    neighbours,
)
from faststeer.diagnostics.conform.findings import Finding, Verdict
from faststeer.diagnostics.conform.referee import (
    InconclusiveError,
    NotApplicableError,
    Outcome,
    Referee,
)
from faststeer.diagnostics.conform.request_probes import (
    chat,
    chat_ask,
    effect,
    refusal,
    several_answers,
    streaming,
)
from faststeer.diagnostics.conform.subject import Ask, BrokenError, RefusedError, Subject
from faststeer.diagnostics.conform.token_probes import (
    every_token,
    first_token,
    last_layer,
    prompt_cache,
)
from faststeer.utils.version import VERSION

# In this order: some build on those before them.
PROBES: dict[str, Callable[[Referee], Outcome]] = {
    "effect": effect,
    "first token": first_token,
    "every token": every_token,
    "last layer": last_layer,
    "prompt cache": prompt_cache,
    "chat": chat,
    "streaming": streaming,
    "several answers": several_answers,
    "coefficient": coefficient,
    "many coefficients": many_coefficients,
    "load": load,
    "neighbours": neighbours,
    "refusal": refusal,
}


@dataclass(frozen=True)
class Report:
    """The findings about a subject. `noise`: how far equal requests were apart, in nats."""

    subject: str
    coefficient: float
    noise: float
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing failed, and steering was seen to act."""
        verdicts = {own.probe: own.verdict for own in self.findings}
        return verdicts["effect"] is Verdict.PASSED and Verdict.FAILED not in verdicts.values()

    def as_json(self) -> dict[str, Any]:
        """Return it as plain objects, with the requests of each failure."""
        return {
            "subject": self.subject,
            "faststeer": VERSION,
            "coefficient": self.coefficient,
            "noise": self.noise,
            "findings": [own.as_json() for own in self.findings],
        }


def examine(
    subject: Subject,
    coefficient: float = 1.0,
    *,
    tokens: int = 8,
    show: Callable[[Finding], None] | None = None,
) -> Report:
    """Probe a steering server or library for silent failures, from outside.

    Every probe first shows that its wrong outcome would be seen; else it is inconclusive.

    Args:
        subject: what is probed.
        coefficient: of the steered requests; large enough to change answers, and small enough that
            they are not all one token.
        tokens: per answer, at least 4.
        show: is called with each finding as soon as it is known.

    Raises:
        ValueError: the subject answers no unsteered request, or an argument is not possible.
    """
    if tokens < 4:
        raise ValueError(f"tokens is {tokens}; expected at least 4")
    if "steered" not in subject.kinds:
        raise ValueError("the subject has no setting 'steered'; nothing can be probed")
    referee = Referee(subject, coefficient, tokens)
    try:
        referee.prepare(
            [chat_ask(referee), *(Ask(own, None, tokens) for own in referee.long_prompts)]
        )
    except (RefusedError, BrokenError) as error:
        raise ValueError(f"{subject.name} does not answer unsteered requests: {error}") from error
    findings = []
    for name, probe in PROBES.items():
        finding = _run(name, probe, referee)
        findings.append(finding)
        if show is not None:
            show(finding)
    return Report(subject.name, coefficient, referee.limits.noise, tuple(findings))


def _run(name: str, probe: Callable[[Referee], Outcome], referee: Referee) -> Finding:
    referee.take_record()
    try:
        if name in referee.subject.without:
            raise NotApplicableError(referee.subject.without[name])
        outcome = probe(referee)
    except (NotApplicableError, RefusedError) as error:
        return Finding(name, Verdict.NOT_APPLICABLE, str(error))
    except (InconclusiveError, BrokenError) as error:
        return Finding(name, Verdict.INCONCLUSIVE, str(error), {}, referee.take_record())
    if outcome.passed:
        referee.passed.add(name)
    verdict = Verdict.PASSED if outcome.passed else Verdict.FAILED
    return Finding(name, verdict, outcome.reason, outcome.measured, referee.take_record())
