"""Answers of OpenAI-compatible servers, at once or streamed, in both forms of log probabilities."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from faststeer.diagnostics.conform.subject import Answer, BrokenError, Reply


@dataclass
class _Choice:
    text: list[str] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    logprobs: list[dict[str, float]] = field(default_factory=list)

    def answer(self) -> Answer:
        complete = len(self.tokens) == len(self.logprobs) and all(self.logprobs)
        logprobs = tuple(self.logprobs) if complete else ()
        return Answer("".join(self.text), tuple(self.tokens), logprobs)


def reply_of(parts: Iterable[Mapping[str, Any]], request: Mapping[str, Any]) -> Reply:
    """Return the reply that one object, or the objects of a stream, hold.

    Raises:
        BrokenError: they do not have the form of the API, or report a fault.
    """
    choices: dict[int, _Choice] = {}
    usage: Mapping[str, Any] = {}
    timings: Mapping[str, Any] = {}
    try:
        for part in parts:
            if "error" in part:
                raise BrokenError(f"an error within the answer: {part['error']}")
            usage = part.get("usage") or usage
            timings = part.get("timings") or timings
            for own in part.get("choices", ()):
                _add(choices.setdefault(own.get("index", 0), _Choice()), own)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BrokenError(f"an answer of another form ({type(error).__name__}: {error})") from error
    if not choices:
        raise BrokenError("an answer without choices")
    details = usage.get("prompt_tokens_details") or {}
    return Reply(
        tuple(choices[index].answer() for index in sorted(choices)),
        request,
        usage.get("prompt_tokens"),
        details.get("cached_tokens", timings.get("cache_n")),
    )


def events(lines: Iterable[str]) -> Iterable[Mapping[str, Any]]:
    """Yield the objects of a stream of server-sent events. Raises BrokenError."""
    for line in lines:
        if not line.startswith("data:"):
            continue
        data = line.removeprefix("data:").strip()
        if data == "[DONE]":
            return
        try:
            yield json.loads(data)
        except ValueError as error:
            raise BrokenError(f"an event that is not JSON: {error}") from error


def _add(choice: _Choice, part: Mapping[str, Any]) -> None:
    """Add a choice, or a part of one, to what is known of it."""
    message = part.get("message") or part.get("delta") or {}
    choice.text.append(part.get("text") or message.get("content") or "")
    logprobs = part.get("logprobs")
    if not logprobs:
        return
    if logprobs.get("content") is not None:  # as conversations have them
        for own in logprobs["content"]:
            listed = {each["token"]: float(each["logprob"]) for each in own["top_logprobs"]}
            _token(choice, own["token"], own["logprob"], listed)
        return
    tops = logprobs.get("top_logprobs") or [{}] * len(logprobs["tokens"])
    for token, value, listed in zip(
        logprobs["tokens"], logprobs["token_logprobs"], tops, strict=True
    ):
        _token(choice, token, value, listed or {})


def _token(choice: _Choice, token: str, value: float | None, listed: Mapping[str, float]) -> None:
    choice.tokens.append(token)
    known = {name: float(own) for name, own in listed.items()}
    if value is not None:
        known[token] = float(value)
    choice.logprobs.append(known)
