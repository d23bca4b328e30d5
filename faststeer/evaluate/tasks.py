"""What a sweep measures: answers to choices, or the next tokens of documents; and when it stops.

The rules are those of van der Weij et al. 2024 (arXiv 2403.05767). Where the unsteered model
breaks one itself, it says nothing about steering, and is not applied.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from torch import nn

from faststeer.data.questions import Choice
from faststeer.evaluate.matching import Matching, Questions
from faststeer.evaluate.next_token import ScoredTexts, TokenScores
from faststeer.evaluate.provenance import data_hash
from faststeer.evaluate.records import Record, Setting
from faststeer.evaluate.setting_runs import ManySettings
from faststeer.patching.patched import Patched
from faststeer.utils.progress import Advance

FAULTY = 0.05  # more than 10 of the paper's 200 choices
SKIPS, STOPS = 0.15, 0.05  # relative accuracy on the target


class Verdict(Enum):
    """What follows from a record for the stronger settings of its line."""

    GO_ON = "go on"
    SKIP_ONE = "skip one"
    STOP = "stop"


@dataclass(frozen=True)
class Subject:
    """The model that is measured, and how much of a task goes into one forward.

    `batch_size`: texts; `at_once`: settings, each with these texts.
    """

    patched: Patched
    model: nn.Module
    tokenizer: Any
    batch_size: int = 8
    at_once: int = 8


class Task(Protocol):
    """Something to measure under many settings."""

    @property
    def facts(self) -> dict[str, Any]:
        """What it is, with hashes of its data."""

    @property
    def items(self) -> int:
        """Texts in it."""

    def check(self, subject: Subject) -> None:
        """Raise ValueError where the model cannot be asked that, before any long work."""

    def measure(
        self, subject: Subject, settings: Sequence[Setting], advance: Advance
    ) -> tuple[Record, list[Record]]:
        """Records, with ``scores`` and ``items``, of the unsteered model and of each setting."""

    def verdict(self, record: Record, unsteered: Record) -> Verdict:
        """Whether settings that are stronger than the record's are worth measuring."""


@dataclass(frozen=True)
class ChoicesTask:
    """The matching score on choices. A line stops on collapse or too many faulty answers."""

    name: str
    choices: Sequence[Choice]

    @property
    def facts(self) -> dict[str, Any]:
        """As `Task` says."""
        sha256 = data_hash([list(choice) for choice in self.choices])
        return {"kind": "choices", "name": self.name, "items": self.items, "sha256": sha256}

    @property
    def items(self) -> int:
        """As `Task` says."""
        return len(self.choices)

    def check(self, subject: Subject) -> None:
        """As `Task` says: an option may be no token."""
        Questions(subject.model, subject.tokenizer, self.choices)

    def measure(
        self, subject: Subject, settings: Sequence[Setting], advance: Advance
    ) -> tuple[Record, list[Record]]:
        """As `Task` says."""
        runs = ManySettings(subject.patched, settings, subject.at_once)
        questions = Questions(subject.model, subject.tokenizer, self.choices)
        *found, unsteered = questions.asked(runs, subject.batch_size, advance)
        return _of_matching(unsteered), [_of_matching(own) for own in found]

    def verdict(self, record: Record, unsteered: Record) -> Verdict:
        """As `Task` says."""
        own, before = record["scores"], unsteered["scores"]
        most = FAULTY * self.items
        collapsed = own["collapsed"] and not before["collapsed"]
        faulty = own["faulty"] > most >= before["faulty"]
        return Verdict.STOP if collapsed or faulty else Verdict.GO_ON


@dataclass(frozen=True)
class DocumentsTask:
    """Next-token accuracy on several sets of documents, by name.

    A line stops where the target's relative accuracy is under 5 %, and leaves one coefficient out
    where it is under 15 %.
    """

    sets: Mapping[str, Sequence[str]]
    target: str
    max_length: int | None = None

    @property
    def facts(self) -> dict[str, Any]:
        """As `Task` says."""
        sets = {
            name: {"texts": len(texts), "sha256": data_hash(list(texts))}
            for name, texts in self.sets.items()
        }
        return {
            "kind": "documents",
            "target": self.target,
            "max_length": self.max_length,
            "sets": sets,
        }

    @property
    def items(self) -> int:
        """As `Task` says."""
        return sum(map(len, self.sets.values()))

    def check(self, subject: Subject) -> None:
        """As `Task` says: a text may be too long, and the target one of no set."""
        if self.target not in self.sets:
            raise ValueError(f"target {self.target!r} is no set; there are {', '.join(self.sets)}")
        self.check_texts(subject)

    def check_texts(self, subject: Subject) -> None:
        """Raise ValueError for a text that is too long, or too short."""
        self._encoded(subject)

    def measure(
        self, subject: Subject, settings: Sequence[Setting], advance: Advance
    ) -> tuple[Record, list[Record]]:
        """As `Task` says."""
        runs = ManySettings(subject.patched, settings, subject.at_once)
        records: list[Record] = [{"scores": {}, "items": {}} for _ in range(len(settings) + 1)]
        for name, texts in self._encoded(subject).items():
            found = texts.scores(runs, subject.batch_size, advance)
            for record, own in zip(records, found, strict=True):
                record["scores"][name] = of_tokens(own, found[-1])
                record["items"][name] = own.items()
        return records[-1], records[:-1]

    def verdict(self, record: Record, unsteered: Record) -> Verdict:
        """As `Task` says."""
        return verdict_of(record["scores"][self.target]["relative"])

    def _encoded(self, subject: Subject) -> dict[str, ScoredTexts]:
        return {
            name: ScoredTexts(subject.model, subject.tokenizer, texts, self.max_length)
            for name, texts in self.sets.items()
        }


def _of_matching(found: Matching) -> Record:
    scores = {
        "score": found.score,
        "faulty": found.faulty,
        "collapsed": found.collapsed,
        "probability": _finite(found.probability),
        "preferred": found.preferred,
        "mass": _finite(found.mass),
    }
    return {"scores": scores, "items": found.items()}


def verdict_of(relative: float | None) -> Verdict:
    """What follows from the relative accuracy on the target."""
    if relative is None or relative >= SKIPS:
        return Verdict.GO_ON
    return Verdict.STOP if relative < STOPS else Verdict.SKIP_ONE


def of_tokens(own: TokenScores, unsteered: TokenScores) -> dict[str, float | None]:
    """What a record tells of the scores on a set of documents."""
    return {
        "accuracy": own.accuracy,
        "accuracy10": own.accuracy10,
        "relative": _ratio(own.accuracy, unsteered.accuracy),
        "relative10": _ratio(own.accuracy10, unsteered.accuracy10),
        "perplexity": _finite(own.perplexity),
        "kl": _finite(own.kl),
    }


def _ratio(own: float, unsteered: float) -> float | None:
    return own / unsteered if unsteered else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
