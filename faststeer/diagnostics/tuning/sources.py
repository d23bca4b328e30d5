"""Where the items come from on which a setting is chosen and measured, and the vectors if none."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import nn

from faststeer.data.chat import ChatFormat, format_of
from faststeer.data.questions import Choice
from faststeer.data.shipped import Behaviour
from faststeer.data.trait_files import Trait
from faststeer.diagnostics.tuning.objectives import (
    Items,
    Objective,
    ScoredItems,
    Scorer,
    encoded,
    scored,
)
from faststeer.diagnostics.tuning.parts import halves
from faststeer.extraction.extract import extract
from faststeer.utils.warnings import FaststeerWarning
from faststeer.vectors.stated_use import warn_of_other_template
from faststeer.vectors.steering_vector import SteeringVector

_log = logging.getLogger(__name__)
_SCREENED = 8  # items, on which every layer is tried

Source: TypeAlias = "Trait | Behaviour | Items | Scorer"


@dataclass(frozen=True)
class Tuning:
    """One vector, and the items that it is to move: to choose a setting on, and to measure it.

    `for_choosing` and `for_measuring` are the vectors that are measured there. They are `vector`
    itself, or where it was extracted from the items, vectors of those that are not measured.
    `screening`: some of the items to choose on, for a first look at every layer.
    """

    name: str
    vector: SteeringVector
    for_choosing: SteeringVector
    for_measuring: SteeringVector
    screening: Objective
    choosing: Objective
    measuring: Objective
    items: str
    unit: str


@dataclass(frozen=True)
class Reader:
    """A model and how its texts are read: `extraction` are arguments of `faststeer.extract`."""

    model: nn.Module
    tokenizer: Any
    extraction: Mapping[str, Any]
    max_length: int | None
    seed: int
    most: int
    progress: bool

    def tuning(self, name: str, vector: SteeringVector | None, source: Source) -> Tuning:
        """Return the vector and items of a source, split in two.

        Raises:
            TypeError: a source of another kind.
            ValueError: no vector and a source that none can be made of; as `halves`, `extract` and
                the objectives.
        """
        if isinstance(source, Trait):
            first, second = source.validation[: self.most // 2], source.test[: self.most]
            return self._given(name, vector, source.pairs, first, second)
        if isinstance(source, Behaviour):
            both = halves(source.held_out, self.seed, self.most)
            return self._given(name, vector, source.pairs, *both)
        if callable(source):
            return self._scored(name, vector, source)
        # Held in memory, unlike what a vector alone is made of: they are split, and read twice.
        chat = format_of(source)
        items: list[Any] = list(_iterated(source))
        if vector is not None and chat is not None:
            warn_of_other_template(vector, chat.digest)
        if vector is not None or not items:
            both = halves(items, self.seed, self.most)
            return self._given(name, vector, None, *both)
        if len(items) < 8:
            raise ValueError(
                f"got {len(items)} items to make a vector of and to tune it on; at least 8 are "
                "needed, or a vector"
            )
        first, second = halves(items, self.seed)
        both_vectors = (
            self._extracted(name, _pairs(first), chat, True),
            self._extracted(name, _pairs(second), chat, True),
        )
        whole = self._extracted(name, _pairs(items), chat, False)
        most = self.most // 2
        return self._tuning(name, (whole, *both_vectors), second[:most], first[:most])

    def _given(
        self,
        name: str,
        vector: SteeringVector | None,
        pairs: Sequence[tuple[str, str]] | None,
        choosing: Sequence[Any],
        measuring: Sequence[Any],
    ) -> Tuning:
        if vector is None:
            if pairs is None:
                raise ValueError("got no items")
            vector = self._extracted(name, pairs, None, False)
        return self._tuning(name, (vector, vector, vector), choosing, measuring)

    def _tuning(
        self,
        name: str,
        vectors: tuple[SteeringVector, SteeringVector, SteeringVector],
        choosing: Sequence[Any],
        measuring: Sequence[Any],
    ) -> Tuning:
        parts = (choosing[:_SCREENED], choosing, measuring)
        screen, choose, measure = (self._encoded(own) for own in parts)
        return Tuning(name, *vectors, screen, choose, measure, _kind(measuring), _unit(measuring))

    def _scored(self, name: str, vector: SteeringVector | None, function: Scorer) -> Tuning:
        if vector is None:
            raise ValueError("a function scores a model, but makes no vector: give one")
        count = len(scored(function, self.model, self.tokenizer))
        both = halves(range(count), self.seed)
        choosing, measuring = (ScoredItems(function, own) for own in both)
        objectives = (choosing, choosing, measuring)
        kind = f"items of {getattr(function, '__name__', type(function).__name__)}"
        return Tuning(name, vector, vector, vector, *objectives, kind, "its own unit")

    def _encoded(self, items: Sequence[Any]) -> Objective:
        special = self.extraction.get("add_special_tokens", True)
        return encoded(self.model, self.tokenizer, items, self.max_length, special)

    def _extracted(
        self, name: str, pairs: Iterable[tuple[str, str]], chat: ChatFormat | None, half: bool
    ) -> SteeringVector:
        """Extract a vector; what there is to warn of is said of all pairs, and not of halves."""
        _log.info("extracting %s", f"{name}, of half of the pairs" if half else name)
        with warnings.catch_warnings():
            if half:
                warnings.simplefilter("ignore", FaststeerWarning)
            return extract(
                self.model,
                self.tokenizer,
                PairsInFormat(pairs, chat),
                name=name,
                progress=self.progress and not half,
                **self.extraction,
            )


class PairsInFormat(list[tuple[str, str]]):
    """Pairs of texts that state their chat format, as `faststeer.data.InChat` does."""

    def __init__(self, pairs: Iterable[tuple[str, str]], chat: ChatFormat | None) -> None:
        super().__init__(pairs)
        self.chat = chat


def _iterated(source: Any) -> Iterable[Any]:
    if isinstance(source, (str, bytes)) or not isinstance(source, Iterable):
        raise TypeError(
            f"items are a {type(source).__name__}; expected pairs of texts, prompts with "
            "continuations, choices, a Trait, a Behaviour or a function of (model, tokenizer)"
        )
    return source


def _pairs(items: Sequence[Any]) -> list[tuple[str, str]]:
    """Return the pairs of texts that a vector is made of."""
    if all(isinstance(own, Choice) for own in items):
        return [(own.question + own.matching, own.question + own.other) for own in items]
    if any(len(own) != 2 for own in items):
        raise ValueError("a vector is made of pairs of texts or of choices: give one for prompts")
    return [(positive, negative) for positive, negative in items]


def _is_text_pair(item: Any) -> bool:
    return isinstance(item, tuple) and len(item) == 2


def _kind(items: Sequence[Any]) -> str:
    if all(isinstance(own, Choice) for own in items):
        return "questions"
    return "pairs" if all(map(_is_text_pair, items)) else "prompts"


def _unit(items: Sequence[Any]) -> str:
    return "nats per token" if all(map(_is_text_pair, items)) else "nats"
