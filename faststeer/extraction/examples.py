"""Texts as token ids: told apart from mistakes, counted, and cut into batches of like length."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

from faststeer.models.special_tokens import token_ids
from faststeer.utils.warnings import FaststeerWarning

POSITIVE, NEGATIVE = 0, 1
SIDES = ("positive", "negative")
_SORTED_BATCHES = 16  # texts of so many batches are sorted by length, so that batches pad little


@dataclass(frozen=True)
class Example:
    """Texts that are read together: a pair, positive first, or a single one. `number` counts them.

    `sides` says of each text whether it is positive (0) or negative (1).
    """

    number: int
    texts: tuple[str, ...]
    sides: tuple[int, ...]
    ids: list[list[int]] = field(default_factory=list)

    @property
    def shared(self) -> int:
        """How many tokens a pair's texts begin with in common."""
        first, second = self.ids
        pairs = zip(first, second, strict=False)
        return next((n for n, (a, b) in enumerate(pairs) if a != b), min(map(len, self.ids)))

    def rows(self) -> list[TextRow]:
        """Its texts one by one, encoded."""
        shared = self.shared if len(self.ids) == 2 else 0
        return [TextRow(own, shared, self.name(text)) for text, own in enumerate(self.ids)]

    def name(self, text: int) -> str:
        """What errors call a text of this unit."""
        if len(self.texts) == 1:
            return f"text {self.number}"
        return f"pair {self.number}: its {SIDES[self.sides[text]]} text"


class TextRow(NamedTuple):
    """An encoded text: its ids, how many it shares with the other of its pair, and its name."""

    ids: list[int]
    shared: int
    name: str


class Encoder:
    """Turns units into token ids, and remembers what a user has to be told."""

    def __init__(
        self,
        tokenizer: Any,
        context: int | None,
        fewest: int,
        max_length: int | None,
        add_special_tokens: bool,
    ) -> None:
        """`context`: tokens that the model has positions for. `fewest`: that a text needs."""
        self.context = context
        self.fewest = fewest
        self.max_length = max_length
        self.encode = partial(
            token_ids, tokenizer, add_special_tokens=add_special_tokens, max_length=max_length
        )
        self.cut = self.equal = self.units = 0
        self.missing_bos: str | None = None  # what to warn of, where a BOS is missing

    def encoded(self, unit: Example) -> Example:
        """With ids. Raises ValueError for a text that is too short, or longer than the context."""
        for number, text in enumerate(unit.texts):
            unit.ids.append(self._ids(text, unit.name(number)))
        self.units += 1
        if len(unit.ids) == 2 and unit.ids[0] == unit.ids[1]:
            self.equal += 1
        return unit

    def _ids(self, text: str, name: str) -> list[int]:
        ids, cut = self.encode(text)
        self.cut += cut
        if len(ids) < self.fewest:
            raise ValueError(
                f"{name} has {len(ids)} tokens, too few for read_token -{self.fewest}: {text!r}"
            )
        if self.context is not None and len(ids) > self.context:
            raise ValueError(
                f"{name} has {len(ids)} tokens, and the model's context is {self.context}; "
                f"max_length={self.context} cuts what is longer, at its end"
            )
        return ids

    def warn(self, aloud: bool = True) -> None:
        """Warn of a missing BOS, truncated texts and identical pairs (one process does).

        Raises:
            ValueError: all pairs are: there is nothing to be found.
        """
        cut = f" ({self.cut} texts were cut to max_length={self.max_length})" if self.cut else ""
        if self.equal and self.equal == self.units:
            raise ValueError(f"the two texts of every pair have equal tokens{cut}")
        if not aloud:
            return
        if self.missing_bos is not None:
            _warn(self.missing_bos)
        if self.equal:
            _warn(
                f"{self.equal} of {self.units} pairs have equal tokens{cut}: they count, and make "
                "the vector shorter"
            )
        elif self.cut:
            _warn(f"{self.cut} texts were longer than max_length={self.max_length} and were cut")


def _warn(message: str) -> None:
    warnings.warn(message, FaststeerWarning, stacklevel=4)


def batched(units: Iterable[Example], batch_size: int, encoder: Encoder) -> Iterator[list[Example]]:
    """Batches of about `batch_size` texts; how they are cut depends on nothing but the texts."""
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; expected at least 1")
    stream = iter(units)
    while first := next(stream, None):
        each = max(1, batch_size // len(first.texts))
        window = [first, *islice(stream, each * _SORTED_BATCHES - 1)]
        encoded = [encoder.encoded(unit) for unit in window]
        encoded.sort(key=lambda unit: max(map(len, unit.ids)))
        for start in range(0, len(encoded), each):
            yield encoded[start : start + each]


def pair_units(pairs: Iterable[Any]) -> Iterator[Example]:
    """Raises ValueError for what is no pair of texts, and for a text that is empty."""
    for number, pair in enumerate(pairs):
        if not (
            isinstance(pair, (tuple, list))  # a dict of two has two texts: its keys
            and len(pair) == 2
            and all(isinstance(text, str) for text in pair)
        ):
            raise ValueError(f"pair {number} is {pair!r}; expected (positive text, negative text)")
        unit = Example(number, tuple(pair), (POSITIVE, NEGATIVE))
        for side, text in enumerate(pair):
            if not text:
                raise ValueError(f"{unit.name(side)} is empty")
        yield unit


def set_units(sides: Sequence[Iterable[str]]) -> Iterator[Example]:
    """Of positive and negative texts. Raises ValueError for a text that is empty, or none."""
    for side, texts in enumerate(sides):
        for number, text in enumerate(texts):
            if not isinstance(text, str) or not text:
                what = "empty" if text == "" else f"{text!r}; expected a text"
                raise ValueError(f"{SIDES[side]} text {number} is {what}")
            yield Example(number, (text,), (side,))
