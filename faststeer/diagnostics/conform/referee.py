"""The referee: asks the subject, keeps reference answers, and judges against measured noise."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from faststeer.diagnostics.conform.distance import Limits, distance
from faststeer.diagnostics.conform.findings import Exchange
from faststeer.diagnostics.conform.subject import (
    KINDS,
    Answer,
    Ask,
    BrokenError,
    RefusedError,
    Reply,
    Setting,
    Subject,
)

PROMPTS = (
    "The history of the sea is",
    "When the engineer looked at the bridge, she said that",
    "My favourite thing about this small town is",
)
LONG = (
    "The harbour lies at the mouth of two rivers, and people have fished there for longer than "
    "anybody has written about it. In spring the ice breaks on the upper river first; blocks as "
    "large as carts drift past the old customs house and pile up against the bridge. Children "
    "are sent to count them. By May the boats are tarred and rigged, the nets hang between the "
    "chestnut trees, and the ferry, which is older than the railway, runs twice a day again. A "
    "visitor once asked the ferryman how deep the channel was. He answered that it depended on "
    "the year, on the moon, and on whom one asked. The town has a school, three bakers, a museum "
    "of knots and ropes, and a clock that is eight minutes late on purpose, so that nobody misses "
    "the evening train. Its market sells smoked eel, rye bread, plums from the south bank, wool, "
    "lamp oil, and letters, since the post office closed in the year of the flood. Most who leave "
    "come back in autumn, when the fog is so thick that the bells are rung for the boats. Asked "
    "what they had missed, one of them said without thinking that it"
)
MESSAGE = "What is the sea, and why do people like to live near it?"


class InconclusiveError(Exception):
    """A wrong outcome would not be seen, so that a probe has no verdict."""


class NotApplicableError(Exception):
    """The subject has nothing of what a probe is about."""


@dataclass(frozen=True)
class Outcome:
    """What a probe found: whether it passed, the reason in a sentence, and numbers, in nats."""

    passed: bool
    reason: str
    measured: Mapping[str, float] = field(default_factory=dict)


class Referee:
    """What probes share: the subject, reference answers, limits, and a record of requests.

    All references of unsteered requests are made by `prepare`, before anything is steered.
    """

    def __init__(self, subject: Subject, coefficient: float = 1.0, tokens: int = 8) -> None:
        self.subject = subject
        self.coefficient = coefficient
        self.tokens = tokens
        self.limits = Limits(0.0)
        self.passed: set[str] = set()  # names of probes
        # Prompts that no earlier run can have left in a cache: one is first seen without steering.
        self.long_prompts = [
            f"{own} {secrets.randbelow(10**6)}. {LONG}" for own in ("Page", "Part")
        ]
        self._references: dict[Ask, Exchange] = {}
        self._record: list[Exchange] = []

    def prepare(self, more: Sequence[Ask] = ()) -> None:
        """Make the unsteered references, those of `more` too, and measure the noise of answers."""
        alone = [self.unsteered(prompt) for prompt in PROMPTS]
        again = [self.answer(self.ask(prompt)) for prompt in PROMPTS]
        together = self.answers([self.ask(prompt) for prompt in PROMPTS * 3])
        pairs = list(zip(alone * 4, again + together, strict=True))
        self.limits = Limits(max(distance(*pair) for pair in pairs))
        for ask in more:
            with suppress(RefusedError, BrokenError):  # the probe that needs it reports that
                self.reference(ask)

    def ask(self, prompt: str = PROMPTS[0], setting: Setting | None = None) -> Ask:
        """Return a plain request."""
        return Ask(prompt, setting, self.tokens)

    def setting(self, kind: str = "steered", factor: float = 1.0) -> Setting:
        """Return a setting at a multiple of the coefficient."""
        return Setting(kind, factor * self.coefficient)

    @property
    def other(self) -> Setting | None:
        """A setting with another effect than `setting()`; None where the subject has none."""
        if "other" in self.subject.kinds:
            return self.setting("other")
        return self.setting(factor=-1.0) if self.subject.coefficients else None

    def replies(self, asks: Sequence[Ask]) -> list[Reply]:
        """Ask at the same time, and record it. Raises RefusedError."""
        replies = list(self.subject.generate(asks))
        self._record += [Exchange(*pair) for pair in zip(asks, replies, strict=True)]
        return replies

    def answers(self, asks: Sequence[Ask]) -> list[Answer]:
        """Return the first answer of each request, made at the same time. Raises RefusedError."""
        return [own.answers[0] for own in self.replies(asks)]

    def answer(self, ask: Ask) -> Answer:
        """Return the first answer of a request that is made alone. Raises RefusedError."""
        return self.answers([ask])[0]

    def reference(self, ask: Ask) -> Answer:
        """Return the answer of a request that is made alone, once. Raises RefusedError."""
        return self.reference_reply(ask).answers[0]

    def reference_reply(self, ask: Ask) -> Reply:
        """Return every response to `reference`."""
        if ask not in self._references:
            self._references[ask] = Exchange(ask, self.replies([ask])[0])
        elif (known := self._references[ask]) not in self._record:
            self._record.append(known)
        return self._references[ask].reply

    def unsteered(self, prompt: str = PROMPTS[0]) -> Answer:
        """Return the reference without steering."""
        return self.reference(self.ask(prompt))

    def steered(self, prompt: str = PROMPTS[0], setting: Setting | None = None) -> Answer:
        """Return the reference with steering."""
        return self.reference(self.ask(prompt, setting or self.setting()))

    def equal(self, first: Answer, second: Answer, what: str, limits: Limits | None = None) -> bool:
        """Return whether two answers are equal. Raises InconclusiveError between the limits."""
        limits = limits or self.limits
        apart = distance(first, second)
        if limits.same < apart < limits.visible:
            raise InconclusiveError(
                f"{what}: {apart:.2g} nats apart, more than noise explains "
                f"({limits.same:.2g}) and less than is certain ({limits.visible:.2g})"
            )
        return apart <= limits.same

    def differ(self, first: Answer, second: Answer) -> bool:
        """Return whether two answers visibly differ."""
        return distance(first, second) >= self.limits.visible

    def require_effect(self, first: Answer, second: Answer, what: str) -> float:
        """Return how far two answers are apart that have to differ for a probe to see anything.

        Raises:
            InconclusiveError: they do not.
        """
        apart = distance(first, second)
        if apart < self.limits.visible:
            raise InconclusiveError(
                f"{what} changes answers by {apart:.2g} nats, and {self.limits.visible:.2g} would "
                "be seen: a larger coefficient may help"
            )
        return apart

    def require_passed(self, probe: str) -> None:
        """Raise InconclusiveError where a probe that this one builds on has not passed."""
        if probe not in self.passed:
            raise InconclusiveError(f"it builds on the probe {probe!r}, which has not passed")

    def require_kind(self, kind: str) -> None:
        """Raise NotApplicableError where the subject has no setting of a kind."""
        if kind not in self.subject.kinds:
            raise NotApplicableError(f"no setting {kind!r} was given: {KINDS[kind]}")

    def require_coefficients(self) -> None:
        """Raise NotApplicableError where requests have no coefficients."""
        if not self.subject.coefficients:
            raise NotApplicableError("the coefficient is not part of a request")

    def require_base_effect(self) -> float:
        """Return the least effect of the steered setting on a prompt. Raises InconclusiveError."""
        return min(
            self.require_effect(self.steered(prompt), self.unsteered(prompt), "the steered setting")
            for prompt in PROMPTS
        )

    def take_record(self) -> tuple[Exchange, ...]:
        """Return the requests since the last call, and forget them."""
        record, self._record = tuple(self._record), []
        return record
