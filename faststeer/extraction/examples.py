"""Texts as examples: validated, labelled, encoded and batched by length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

from faststeer.data.encoding import token_ids
from faststeer.extraction.matching_ends import matched_ends

POSITIVE, NEGATIVE = 0, 1
SIDES = ("positive", "negative")
_NAMED = 5  # dropped pairs that a message names
_SORTED_BATCHES = 16  # batches whose texts are sorted by length together, so that they pad little


@dataclass(frozen=True)
class Example:
    """Texts that are read together: a pair, positive first, or a single text.

    `index` counts the examples, `sides` holds POSITIVE or NEGATIVE per text, and `ids` the token
    ids per text once `Encoder.encode` added them.
    """

    index: int
    texts: tuple[str, ...]
    sides: tuple[int, ...]
    ids: list[list[int]] = field(default_factory=list)

    @property
    def shared(self) -> int:
        """The length of the common prefix of a pair's texts, in tokens."""
        first, second = self.ids
        pairs = zip(first, second, strict=False)
        return next((n for n, (a, b) in enumerate(pairs) if a != b), min(map(len, self.ids)))

    def rows(self) -> list[TextRow]:
        """Return the encoded texts one by one."""
        shared = self.shared if len(self.ids) == 2 else 0
        return [TextRow(ids, shared, self.describe(text)) for text, ids in enumerate(self.ids)]

    def describe(self, text: int) -> str:
        """Return how error messages refer to the text at this place."""
        if len(self.texts) == 1:
            return f"text {self.index}"
        return f"pair {self.index}: its {SIDES[self.sides[text]]} text"


class TextRow(NamedTuple):
    """An encoded text: token ids, length of the prefix shared with its pair, name in errors."""

    ids: list[int]
    shared: int
    name: str


class Encoder:
    """A tokenizer with limits that counts truncated texts, identical pairs and dropped ones."""

    def __init__(
        self,
        tokenizer: Any,
        context_length: int | None,
        min_tokens: int,
        max_length: int | None,
        add_special_tokens: bool,
        match_endings: bool = False,
    ) -> None:
        """Set the limits of a text in tokens.

        Args:
            tokenizer: the model's tokenizer.
            context_length: positions of the model; None where it has no limit.
            min_tokens: tokens that every text needs.
            max_length: texts are truncated to this length; None for whole texts.
            add_special_tokens: passed to the tokenizer.
            match_endings: whether the texts of a pair are trimmed to equal last tokens.
        """
        self.match_endings = match_endings
        self.context_length = context_length
        self.min_tokens = min_tokens
        self.max_length = max_length
        self._tokenize = partial(
            token_ids, tokenizer, add_special_tokens=add_special_tokens, max_length=max_length
        )
        self.truncated = self.identical = self.encoded = self.dropped = self.single = 0
        self.first_dropped: list[int] = []
        self.missing_bos: str | None = None  # the warning, where texts lack a BOS

    def encode(self, example: Example) -> Example:
        """Return the example with its token ids.

        Raises:
            ValueError: a text that is too short, or longer than the model's context.
        """
        ids = [self._ids(text, example.describe(n)) for n, text in enumerate(example.texts)]
        self.encoded += 1
        if len(ids) == 2 and ids[0] == ids[1]:
            self.identical += 1
        return replace(example, ids=ids)

    def encode_all(self, examples: Iterable[Example]) -> Iterator[Example]:
        """Yield the examples with their token ids, without pairs whose endings do not match.

        Raises:
            ValueError: as `encode`.
        """
        for encoded in map(self.encode, examples):
            ids: list[list[int]] | None = encoded.ids
            if self.match_endings:
                ids = matched_ends(encoded.ids, encoded.shared)
            if ids is None or min(map(len, ids)) < self.min_tokens:
                self.dropped += 1
                self.first_dropped = [*self.first_dropped, encoded.index][:_NAMED]
                continue
            self.single += sum(len(row) == 1 for row in ids)
            yield replace(encoded, ids=ids)

    def _ids(self, text: str, name: str) -> list[int]:
        ids, truncated = self._tokenize(text)
        self.truncated += truncated
        if len(ids) < self.min_tokens:
            raise ValueError(
                f"{name} has {len(ids)} tokens, too few for read_token -{self.min_tokens}: {text!r}"
            )
        if self.context_length is not None and len(ids) > self.context_length:
            raise ValueError(
                f"{name} has {len(ids)} tokens, and the model's context is {self.context_length}; "
                f"max_length={self.context_length} truncates longer texts at their end"
            )
        return ids

    def messages(self) -> list[str]:
        """Return what to warn of: a missing BOS, truncated texts, identical and dropped pairs.

        Raises:
            ValueError: no pair is left whose texts differ, so that no direction separates them.
        """
        truncated = ""
        if self.truncated:
            truncated = f" ({self.truncated} texts were truncated to max_length={self.max_length})"
        kept = self.encoded - self.dropped
        if self.dropped and not kept:
            raise ValueError(
                f"match_endings dropped all {self.dropped} pairs: no texts of a pair have a token "
                "in common in the second half of what follows their common beginning"
            )
        if self.identical and self.identical == kept:
            raise ValueError(f"the two texts of every pair have equal tokens{truncated}")
        found = [] if self.missing_bos is None else [self.missing_bos]
        if self.single:
            found.append(
                f"attention sinks: {self.single} texts have a single token, a text's first, where "
                "sinks are most often; there is nothing to compare its norm with, and it was read "
                "as it is"
            )
        if self.dropped:
            named = ", ".join(map(str, self.first_dropped))
            more = ", ..." if self.dropped > _NAMED else ""
            found.append(
                f"match_endings dropped {self.dropped} of {self.encoded} pairs, whose texts cannot "
                "end in the same token without losing half of what follows their common "
                f"beginning (pairs {named}{more}, counted from 0)"
            )
        if self.identical:
            found.append(
                f"{self.identical} of {self.encoded} pairs have equal tokens{truncated}: they are "
                "included, and shorten the vector"
            )
        elif self.truncated:
            found.append(
                f"{self.truncated} texts were longer than max_length={self.max_length} and were "
                "truncated"
            )
        return found


def encoded_batches(
    examples: Iterable[Example], batch_size: int, encoder: Encoder
) -> Iterator[list[Example]]:
    """Yield encoded examples in batches of about `batch_size` texts of similar length.

    The batches depend on the texts alone, so that all processes form the same ones.

    Raises:
        ValueError: `batch_size` below 1, and as `Encoder.encode`.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; expected at least 1")
    stream = iter(examples)
    while first := next(stream, None):
        each = max(1, batch_size // len(first.texts))
        window = [first, *islice(stream, each * _SORTED_BATCHES - 1)]
        encoded = list(encoder.encode_all(window))
        encoded.sort(key=lambda example: max(map(len, example.ids)))
        for start in range(0, len(encoded), each):
            yield encoded[start : start + each]


def labelled_examples(
    pairs: Iterable[tuple[str, str]] | None,
    positive: Iterable[str] | None,
    negative: Iterable[str] | None,
) -> tuple[Iterator[Example], int | None]:
    """Return examples of either pairs or two sets, and the number of texts where it is known.

    Raises:
        ValueError: both or neither of pairs and sets, one set alone, or a single text as a set.
    """
    if (pairs is None) == (positive is None and negative is None):
        raise ValueError("give either pairs, or positive and negative texts")
    if pairs is not None:
        expected = 2 * len(pairs) if isinstance(pairs, Sized) else None
        return _pair_examples(pairs), expected
    if positive is None or negative is None:
        raise ValueError("positive and negative texts go together; one of them is missing")
    reject_single_text(positive, "positive")
    reject_single_text(negative, "negative")
    expected = None
    if isinstance(positive, Sized) and isinstance(negative, Sized):
        expected = len(positive) + len(negative)
    return _set_examples((positive, negative)), expected


def reject_single_text(texts: Iterable[str], argument: str) -> None:
    """Raise ValueError for a string in place of several, which would be read letter by letter."""
    if isinstance(texts, str):
        raise ValueError(
            f"{argument} is a single text, {texts!r}; expected several, such as a list"
        )


def _pair_examples(pairs: Iterable[Any]) -> Iterator[Example]:
    """Yield an example per pair. Raises ValueError for anything but two non-empty texts."""
    for index, pair in enumerate(pairs):
        if not (
            isinstance(pair, (tuple, list))  # iterating over a dict of two would give its keys
            and len(pair) == 2
            and all(isinstance(text, str) for text in pair)
        ):
            raise ValueError(
                f"pair {index} is {pair!r}; expected (positive text, negative text); chat messages "
                "become texts by faststeer.data.InChat(pairs, tokenizer)"
            )
        example = Example(index, tuple(pair), (POSITIVE, NEGATIVE))
        for side, text in enumerate(pair):
            if not text:
                raise ValueError(f"{example.describe(side)} is empty")
        yield example


def _set_examples(sides: Sequence[Iterable[str]]) -> Iterator[Example]:
    """Yield an example per text of the two sets. Raises ValueError for anything but a text."""
    for side, texts in enumerate(sides):
        for index, text in enumerate(texts):
            if not isinstance(text, str) or not text:
                what = "empty" if text == "" else f"{text!r}; expected a text"
                raise ValueError(f"{SIDES[side]} text {index} is {what}")
            yield Example(index, (text,), (side,))
