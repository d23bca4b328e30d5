"""Confounds: how the two sides of the texts differ besides what a vector is meant to hold.

Counted from token ids while texts are encoded, in memory that does not depend on their number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from math import sqrt
from typing import Any

from torch import nn

from faststeer.data.chat import format_of
from faststeer.extraction.examples import NEGATIVE, POSITIVE, Example, labelled_examples
from faststeer.extraction.lexical import Lexical
from faststeer.extraction.reader import ActivationReader
from faststeer.extraction.text_reader import TextReader
from faststeer.steering.positions import Positions

_DEVIATIONS = (
    3.0  # by how many standard errors the sides must differ: chance reaches it in 1 of 370
)
_LEAST_SHARE = 0.25  # of texts, by which the sides' shares of a last token must differ
_MOST_PAIRS = 0.8  # of pairs, in which the same side must be the longer
_LONGER = 1.25  # times the other set's mean length


class Confounds:
    """What is counted of encoded texts to name confounds."""

    def __init__(self, reader: TextReader, template: str | None = None) -> None:
        """Start without texts. `template`: the digest of the chat template that made them."""
        self.tokenizer = reader.tokenizer
        index = reader.read_token.index
        self.single = index is not None
        self.index = -1 if index is None else index
        self.template = template
        self.last: tuple[Counter[int], Counter[int]] = (Counter(), Counter())
        self.lengths = _Lengths()
        self.tail: list[int] | None = None  # from the last special token on, of the first text
        self.same_tail = True
        self.special = _special_tokens(reader.tokenizer)
        self.lexical = Lexical(reader)

    def add(self, example: Example) -> None:
        """Count the texts of an encoded example."""
        for side, ids in zip(example.sides, example.ids, strict=True):
            self.last[side][ids[self.index]] += 1
            tail = self._tail(ids)
            if self.tail is None:
                self.tail = tail
            self.same_tail &= tail == self.tail
        self.lengths.add(example)
        self.lexical.add(example)

    def messages(self) -> list[str]:
        """Return the confounds in words, with their counts."""
        found = [
            self._endings(),
            self.lengths.message(),
            self._template_token(),
            self.lexical.message(),
        ]
        return [f"confound: {message}" for message in found if message]

    def _endings(self) -> str | None:
        """Name the token whose share among the sides' last (or read) tokens differs most."""
        totals = [own.total() for own in self.last]
        if not all(totals):
            return None
        positive, negative = self.last
        tokens = list(positive | negative)  # in the order in which they were met

        def apart(token: int) -> float:
            return abs(positive[token] / totals[0] - negative[token] / totals[1])

        token = max(tokens, key=apart)
        counts = [own[token] for own in self.last]
        if apart(token) < _LEAST_SHARE or _score(counts, totals) < _DEVIATIONS:
            return None
        name = self._name(token)
        verb = f"end in {name}" if self.index == -1 else f"are read (token {self.index}) at {name}"
        return (
            f"positives {verb} in {counts[0]} of {totals[0]} texts, negatives in {counts[1]} of "
            f"{totals[1]}; match_endings trims pairs to equal last tokens"
        )

    def _template_token(self) -> str | None:
        """Report a read token that belongs to the chat template, and so is the same everywhere."""
        tokens = self.last[0] | self.last[1]
        total = self.last[0].total() + self.last[1].total()
        if not self.single or len(tokens) != 1 or total < 2:
            return None
        tail = self.tail or []
        if not (self.same_tail and len(tail) >= -self.index if tail else self.template):
            return None
        return (
            f"the token read, {self._name(next(iter(tokens)))}, belongs to the chat template and "
            f"is the same in all {total} texts; read_token='answer' reads the tokens in which a "
            "pair differs"
        )

    def _tail(self, ids: list[int]) -> list[int]:
        """Return the tokens from the last special one on, or none; the first token is a BOS."""
        places = (n for n in range(len(ids) - 1, 0, -1) if ids[n] in self.special)
        start = next(places, None)
        return [] if start is None else ids[start:]

    def _name(self, token: int) -> str:
        text = self.tokenizer.decode([token])
        return repr(text) if text else f"token {token}"


class _Lengths:
    """Lengths in tokens of both sides' texts."""

    def __init__(self) -> None:
        self.count, self.total, self.squares = [0, 0], [0, 0], [0, 0]
        self.pairs = 0
        self.longer = [0, 0]  # pairs in which this side is the longer

    def add(self, example: Example) -> None:
        lengths = [len(ids) for ids in example.ids]
        for side, length in zip(example.sides, lengths, strict=True):
            self.count[side] += 1
            self.total[side] += length
            self.squares[side] += length * length
        if len(lengths) == 2:
            self.pairs += 1
            if lengths[0] != lengths[1]:
                self.longer[example.sides[lengths[1] > lengths[0]]] += 1

    def message(self) -> str | None:
        if not all(self.count):
            return None
        means = [total / count for total, count in zip(self.total, self.count, strict=True)]
        in_tokens = f"{means[POSITIVE]:.1f} tokens on average, negatives {means[NEGATIVE]:.1f}"
        if not self.pairs:
            variances = [
                s / n - m * m for s, n, m in zip(self.squares, self.count, means, strict=True)
            ]
            error = sqrt(sum(v / n for v, n in zip(variances, self.count, strict=True)))
            distinct = abs(means[0] - means[1]) >= _DEVIATIONS * error and min(self.count) > 1
            if max(means) < _LONGER * min(means) or not distinct:
                return None
            return f"positives have {in_tokens}"
        most = max(self.longer)
        side = "positives" if self.longer[POSITIVE] == most else "negatives"
        apart = abs(self.longer[0] - self.longer[1])
        if most < _MOST_PAIRS * self.pairs or apart < _DEVIATIONS * sqrt(sum(self.longer)):
            return None
        return f"{side} are longer in {most} of {self.pairs} pairs: positives have {in_tokens}"


def _score(counts: list[int], totals: list[int]) -> float:
    """Return by how many standard errors two shares differ, under the hypothesis of equal ones."""
    pooled = sum(counts) / sum(totals)
    error = sqrt(pooled * (1 - pooled) * sum(1 / total for total in totals))
    shares = [count / total for count, total in zip(counts, totals, strict=True)]
    return abs(shares[0] - shares[1]) / error if error else 0.0


def _special_tokens(tokenizer: Any) -> frozenset[int]:
    """Return the ids of a tokenizer's special tokens, as far as it tells them."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    marked = {number for number, token in added.items() if getattr(token, "special", False)}
    return frozenset(getattr(tokenizer, "all_special_ids", ())) | marked


def confounds(
    model: nn.Module,
    tokenizer: Any,
    pairs: Iterable[tuple[str, str]] | None = None,
    *,
    positive: Iterable[str] | None = None,
    negative: Iterable[str] | None = None,
    read_token: int | Positions = -1,
    max_length: int | None = None,
    add_special_tokens: bool = True,
    match_endings: bool = False,
) -> list[str]:
    """Return how the two sides of texts differ besides their meaning, in words with counts.

    Named are a token in which one side ends more often, sides of unequal length, a read token that
    belongs to the chat template, and read tokens whose embeddings alone separate the sides. No
    forward pass runs. Arguments and errors are those of `faststeer.extract`.
    """
    examples, _ = labelled_examples(pairs, positive, negative)
    chat = format_of(pairs, positive, negative)
    reader = ActivationReader(
        model,
        tokenizer,
        0,
        "resid_post",
        read_token,
        max_length,
        add_special_tokens,
        match_endings=match_endings,
        chat=chat,
    )
    found = Confounds(reader, None if chat is None else chat.digest)
    for example in reader.encoder.encode_all(examples):
        found.add(example)
    return found.messages()
