"""What is probed: a server or a library, behind one method that answers requests."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

KINDS = {
    "steered": "a vector, at every token",
    "other": "another vector at every token, or the same one with another effect",
    "prompt": "the vector of `steered`, at the tokens of the prompt alone",
    "early": "the vector of `steered`, at the first few tokens of the prompt alone",
    "last_layer": "a vector at the model's last layer alone, at every token",
    "wrong": "a setting that must be refused, such as an unknown vector",
}


@dataclass(frozen=True)
class Setting:
    """The steering of one request: a kind, one of `KINDS`, and a coefficient."""

    kind: str
    coefficient: float

    def __str__(self) -> str:
        return f"{self.kind} at {self.coefficient:g}"


@dataclass(frozen=True)
class Ask:
    """One request.

    Args:
        prompt: the text; with `chat`, the only message of a user.
        setting: its steering; None for none.
        tokens: how many tokens to generate.
        n: how many answers.
        seed: greedy where None; else sampled at temperature 1 with this seed.
        stream: whether the answer comes in parts.
        chat: whether the route for conversations answers, with its template.
        fresh: whether nothing that earlier requests computed may be reused.
    """

    prompt: str
    setting: Setting | None
    tokens: int
    n: int = 1
    seed: int | None = None
    stream: bool = False
    chat: bool = False
    fresh: bool = True


@dataclass(frozen=True)
class Answer:
    """One generated text.

    Args:
        text: all of it.
        tokens: the text of each token; empty where the subject does not report tokens.
        logprobs: per token, log probabilities of the likeliest tokens and the chosen one, by text;
            empty where the subject does not report them.
    """

    text: str
    tokens: tuple[str, ...] = ()
    logprobs: tuple[Mapping[str, float], ...] = ()

    def after(self, count: int) -> Answer:
        """Return the answer without its first tokens."""
        tokens = self.tokens[count:]
        return Answer("".join(tokens), tokens, self.logprobs[count:])

    def first(self, count: int) -> Answer:
        """Return the first tokens of the answer; all of it where no tokens are reported."""
        if not self.tokens:
            return self
        tokens = self.tokens[:count]
        return Answer("".join(tokens), tokens, self.logprobs[:count])


@dataclass(frozen=True)
class Reply:
    """The response to one request.

    Args:
        answers: `Ask.n` of them.
        request: the request as it was sent, so that it can be repeated.
        prompt_tokens: of the prompt; None where that is not reported.
        cached_tokens: tokens of the prompt that were not computed again; None as above.
    """

    answers: tuple[Answer, ...]
    request: Mapping[str, Any] = field(default_factory=dict)
    prompt_tokens: int | None = None
    cached_tokens: int | None = None


class RefusedError(Exception):
    """The subject refuses a request, or cannot express it, with the reason in words."""


class BrokenError(Exception):
    """The subject does not answer: no connection, a fault of its own, an answer of another form."""


class Subject(Protocol):
    """What is probed. All attributes and methods are required.

    `name`: for the report. `kinds`: the settings that it can be given, "steered" among them.
    `coefficients`: whether a request has a coefficient of its own. `has_fresh`: whether it obeys
    `Ask.fresh`, or has no cache at all. `without`: reasons why probes do not apply, by the name of
    the probe.
    """

    name: str
    kinds: Collection[str]
    coefficients: bool
    has_fresh: bool
    without: Mapping[str, str]

    def generate(self, asks: Sequence[Ask]) -> Sequence[Reply]:
        """Answer requests that are made at the same time, in their order.

        Raises:
            RefusedError: one is refused.
            BrokenError: one has no answer.
        """
        ...

    def render(self, message: str) -> str | None:
        """Return the prompt that the chat template makes of a message; None if unknown."""
        ...
