"""The result of a comparison: what steering changed at each token of several texts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from faststeer.vectors.sites import Site

COLOURS = ("kl", "projection", "change")


class NextToken(NamedTuple):
    """One of the likeliest next tokens: its id, its text, and its probability."""

    id: int
    text: str
    probability: float


@dataclass(frozen=True)
class ComparedText:
    """The tokens of one text, and what steering changed at each of them.

    Attributes:
        name: "prompt", "unsteered answer", "steered answer", or "text 0", "text 1", ...
        start: the position of the first token, counted from the beginning of the prompt.
        ids: token ids; every list below has one entry per token.
        pieces: what each token adds to the text; of several tokens that form one character, all
            but the last add nothing.
        kl: KL(unsteered || steered) of the distributions of the next token, in nats.
        change: norm of what steering changed in the residual stream, divided by the unsteered norm.
        unsteered_projection: projection of the unsteered residual stream on the vector's unit
            direction, in the units of the residual stream; empty without a vector.
        steered_projection: the same of the steered residual stream.
        unsteered_next: the five likeliest next tokens of the unsteered model, likeliest first.
        steered_next: the same of the steered model.
    """

    name: str
    start: int
    ids: list[int]
    pieces: list[str]
    kl: list[float]
    change: list[float]
    unsteered_projection: list[float]
    steered_projection: list[float]
    unsteered_next: list[list[NextToken]]
    steered_next: list[list[NextToken]]

    def values(self, colour: str) -> list[float]:
        """Return what is coloured: "kl", "change", or "projection", which is the steered one."""
        named = {"kl": self.kl, "change": self.change, "projection": self.steered_projection}
        return named[colour]


@dataclass(frozen=True)
class Comparison:
    """What steering changed at each token of two answers to a prompt, and of other texts.

    Attributes:
        steering: the vectors with coefficients and layers, in words.
        prompt: None where only texts were given, as `answers` are.
        answers: the unsteered and the steered one, each greedy.
        texts: the texts that were given.
        changed_at: the site of `change`.
        projected_at: the site of the projections; None without a vector.
        vector: the name of the vector of the projections; None without one.
    """

    steering: str
    prompt: ComparedText | None
    answers: tuple[ComparedText, ComparedText] | None
    texts: list[ComparedText]
    changed_at: Site
    projected_at: Site | None
    vector: str | None

    def __iter__(self) -> Iterator[ComparedText]:
        """Iterate over the prompt, the unsteered answer, the steered answer, and the texts."""
        if self.prompt is not None and self.answers is not None:
            yield self.prompt
            yield from self.answers
        yield from self.texts

    @property
    def colours(self) -> list[str]:
        """The names of the colours, "kl", "projection" if there is a vector, "change"."""
        return [name for name in COLOURS if name != "projection" or self.projected_at is not None]

    @property
    def parting(self) -> int | None:
        """The index of the first token at which the answers differ; None where they are equal.

        The length of the shorter answer where the longer one begins with it.
        """
        if self.answers is None or self.answers[0].ids == self.answers[1].ids:
            return None
        first, second = (answer.ids for answer in self.answers)
        pairs = enumerate(zip(first, second, strict=False))
        return next((n for n, (a, b) in pairs if a != b), min(len(first), len(second)))

    @property
    def next_at_parting(self) -> tuple[list[NextToken], list[NextToken]] | None:
        """The likeliest tokens at the parting, of the unsteered and of the steered model."""
        if self.parting is None or self.prompt is None or self.answers is None:
            return None
        before, at = self.answers[0], self.parting - 1
        if self.parting == 0:
            before, at = self.prompt, -1
        return before.unsteered_next[at], before.steered_next[at]

    def to_records(self) -> list[dict[str, Any]]:
        """Return a flat dict per token, in the order of the texts; `pandas.DataFrame` takes them.

        Beside the fields of `ComparedText`, a record has `parting`, whether the answers part at
        this token, and `unsteered_next` and `steered_next` as lists of dicts.
        """
        return [
            {
                "text": text.name,
                "position": text.start + n,
                "id": text.ids[n],
                "piece": text.pieces[n],
                "kl": text.kl[n],
                "change": text.change[n],
                "unsteered_projection": _item(text.unsteered_projection, n),
                "steered_projection": _item(text.steered_projection, n),
                "parting": self.parts_at(text, n),
                "unsteered_next": [own._asdict() for own in text.unsteered_next[n]],
                "steered_next": [own._asdict() for own in text.steered_next[n]],
            }
            for text in self
            for n in range(len(text.ids))
        ]

    def parts_at(self, text: ComparedText, token: int) -> bool:
        """Return whether the answers part at the token of this index of `text`."""
        of_answer = self.answers is not None and any(text is answer for answer in self.answers)
        return of_answer and token == self.parting


def _item(values: list[float], index: int) -> float | None:
    return values[index] if values else None
