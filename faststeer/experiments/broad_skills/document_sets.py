"""Sets of documents: some to make vectors from, others held out to measure on."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from faststeer.evaluate.provenance import data_hash
from faststeer.experiments.broad_skills.sources import FEWEST_LANGUAGES, Source

CODE, PYTHON_ONLY, OTHERS, TEXT = "general code", "Python", "other languages", "text"
_OPENING = 200  # characters; of documents that begin alike only one is taken
_LETTERS = 8  # per token, above the mean of any tokenizer; the rest is cut before encoding


@dataclass(frozen=True)
class Drawn:
    """Documents of one source, none in both parts; `too_short` counts those left out."""

    source: str
    train: list[str]
    held_out: list[str]
    too_short: int

    @property
    def facts(self) -> dict[str, Any]:
        """Counts, and hashes of the texts."""
        return {
            "train": len(self.train),
            "held out": len(self.held_out),
            "too short": self.too_short,
            "sha256": {"train": data_hash(self.train), "held out": data_hash(self.held_out)},
        }


@dataclass(frozen=True)
class Sets:
    """Equally many documents of text, of Python and of general code, from several sources.

    `drawn`: Python first, then the other languages, then the text. General code has equally many
    documents per language; its Python documents are the first `shared` of the Python set.
    """

    drawn: list[Drawn]
    languages: int
    shared: int

    @property
    def skills(self) -> dict[str, dict[str, int]]:
        """Skill -> {source: how many of its first documents}, the same in both parts."""
        python, *others = self.drawn[: self.languages]
        other = {own.source: len(own.train) for own in others}
        return {
            CODE: {python.source: self.shared, **other},
            PYTHON_ONLY: {python.source: len(python.train)},
            OTHERS: other,
            TEXT: {own.source: len(own.train) for own in self.drawn[self.languages :]},
        }

    def train_of(self, skill: str) -> list[str]:
        """Return the documents of a skill that vectors are made from."""
        by_source = {own.source: own.train for own in self.drawn}
        return _first(by_source, self.skills[skill])

    def held_out_of(self, skill: str) -> list[str]:
        """Return the held-out documents of a skill."""
        return _first(self.held_out, self.skills[skill])

    @property
    def held_out(self) -> dict[str, list[str]]:
        """The held-out documents, by source."""
        return {own.source: own.held_out for own in self.drawn}

    @property
    def facts(self) -> dict[str, Any]:
        """Counts and hashes, by source."""
        return {own.source: own.facts for own in self.drawn}


def draw_sets(
    code: Sequence[Source],
    text: Sequence[Source],
    tokenizer: Any,
    *,
    documents: int,
    max_length: int,
    seed: int,
) -> Sets:
    """Draw `documents` per set to make vectors from, and as many others to measure on.

    Sources have equal shares. A document counts with its first `max_length` tokens; one with less
    than half as many is left out.

    Raises:
        ValueError: a source has too few documents.
    """

    def drawn(source: Source, share: int, option: str) -> Drawn:
        own = _drawn(source, tokenizer, share, max_length, seed)
        if len(own.train) < share:
            raise ValueError(_too_few(own, share, max_length, option))
        return own

    if documents < max(FEWEST_LANGUAGES, len(text)):
        raise ValueError(
            f"--documents {documents}: expected at least {FEWEST_LANGUAGES}, one per language, and "
            f"one per source of text, of which there are {len(text)}"
        )
    python, *others = code[:documents]
    shared, *shares = _shares(documents, 1 + len(others))
    narrow = drawn(python, documents, "--code")
    mixed = [drawn(*both, "--code") for both in zip(others, shares, strict=True)]
    text_shares = _shares(documents, len(text))
    prose = [drawn(*both, "--text") for both in zip(text, text_shares, strict=True)]
    return Sets([narrow, *mixed, *prose], 1 + len(mixed), shared)


def _first(by_source: Mapping[str, list[str]], counts: Mapping[str, int]) -> list[str]:
    return [text for source, count in counts.items() for text in by_source[source][:count]]


def _shares(documents: int, sources: int) -> list[int]:
    """Return shares as equal as possible, the larger ones first."""
    return [documents // sources + (at < documents % sources) for at in range(sources)]


def _drawn(source: Source, tokenizer: Any, share: int, max_length: int, seed: int) -> Drawn:
    """Return `share` documents per part, or fewer; the held-out ones are drawn first."""
    taken: list[str] = []
    openings: set[str] = set()
    too_short = 0
    for document in source.shuffled(random.Random(f"{seed} {source.name}")):
        text = document.strip()[: _LETTERS * max_length]
        opening = " ".join(text.split())[:_OPENING]
        if opening in openings:
            continue
        openings.add(opening)
        if 2 * len(tokenizer(text)["input_ids"]) < max_length:
            too_short += 1
            continue
        taken.append(text)
        if len(taken) == 2 * share:
            break
    there = len(taken) // 2
    return Drawn(source.name, taken[there : 2 * there], taken[:there], too_short)


def _too_few(own: Drawn, share: int, max_length: int, option: str) -> str:
    there = len(own.train) + len(own.held_out)
    return (
        f"{own.source} has {there} documents of at least {max_length // 2} tokens, "
        f"and {own.too_short} shorter ones; {2 * share} are needed; give {option} with more, "
        "or take fewer --documents"
    )
