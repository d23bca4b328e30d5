"""The answers of one request while they grow: written by the worker, read by the client."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from faststeer.play.asking import Request, Sampling


class RequestError(ValueError):
    """A request that cannot be answered; the message is for its client."""


@dataclass(frozen=True)
class Answer:
    """An answer as far as it has been generated.

    Attributes:
        ids: the generated tokens, without the token that ends the text.
        text: the same as text; characters that are not complete yet are left out.
        ended: "end" where the model ended its text, "length" where `max_new_tokens` did; None
            while it grows.
    """

    ids: tuple[int, ...]
    text: str
    ended: str | None


@dataclass
class Row:
    """One sequence of a batch: its prompt, and what has been generated of its answer."""

    prompt: list[int]
    limit: int
    sampling: Sampling
    stream: Stream
    coefficients: dict[str, float] = field(default_factory=dict)
    ids: list[int] = field(default_factory=list)
    ended: str | None = None

    def __post_init__(self) -> None:
        """Seed the row's own draws."""
        self.generator = torch.Generator().manual_seed(self.sampling.seed)

    @property
    def running(self) -> bool:
        """Whether a client still waits for tokens of this row."""
        return self.ended is None and self.stream.wanted

    def add(self, token: int, ends: set[int]) -> None:
        """Append a generated token. `ends`: tokens that end a text, and are not appended."""
        if token in ends:
            self.ended = "end"
            return
        self.ids.append(token)
        if len(self.ids) >= self.limit:
            self.ended = "length"


class Stream:
    """The two growing answers of one request. Iterate over it, from one thread, for updates.

    Leaving the iteration early, or `close`, drops the request; other requests are not affected.

    Attributes:
        notes: warnings about the request's steering, in words.
    """

    def __init__(self, request: Request, prompts: tuple[list[int], list[int]], decode: Any) -> None:
        """Make both rows. `decode`: ids to text; `prompts`: unsteered, steered."""
        self.request = request
        self.notes: list[str] = []
        self.rows = [Row(ids, request.max_new_tokens, request.sampling, self) for ids in prompts]
        self.wanted = True
        self._decode = decode
        self._changed = threading.Condition()
        self._version = 0
        self._error: str | None = None

    @property
    def prompt_tokens(self) -> int:
        """The tokens of the longer prompt."""
        return max(len(row.prompt) for row in self.rows)

    def __iter__(self) -> Iterator[tuple[Answer, Answer]]:
        """Yield (unsteered, steered) after every change, at last with both ended.

        Updates that arrive while the client is busy come as one.

        Raises:
            RequestError: the request failed, or the batcher was closed.
        """
        seen = 0
        try:
            while True:
                with self._changed:
                    while self._version <= seen:
                        self._changed.wait()
                    seen, error = self._version, self._error
                    parts = [(tuple(row.ids), row.ended) for row in self.rows]
                if error is not None:
                    raise RequestError(error)
                unsteered, steered = (Answer(ids, self._text(ids), end) for ids, end in parts)
                yield unsteered, steered
                if unsteered.ended and steered.ended:
                    return
        finally:
            self.close()

    def result(self) -> tuple[Answer, Answer]:
        """Wait for both answers to end, and return (unsteered, steered). Raises as iterating."""
        *_, last = self
        return last

    def close(self) -> None:
        """Drop the request: nothing more is generated for it once the running step has ended."""
        self.wanted = False

    def extend(self, tokens: list[int], ends: set[int]) -> None:
        """Append a token to each of the two rows that is still running."""
        with self._changed:
            for row, token in zip(self.rows, tokens, strict=True):
                if row.running:
                    row.add(token, ends)
            self._version += 1
            self._changed.notify_all()

    def fail(self, message: str) -> None:
        """End the request with an error for its client."""
        with self._changed:
            self._error = message
            self.wanted = False
            self._version += 1
            self._changed.notify_all()

    def _text(self, ids: tuple[int, ...]) -> str:
        text: str = self._decode(list(ids), skip_special_tokens=True)
        return text.rstrip("\ufffd")  # the first bytes of a character
