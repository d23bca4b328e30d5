"""Tasks of a sweep: answers to choices or next tokens of documents, each with stopping rules.

The rules are those of van der Weij et al. 2024 (arXiv 2403.05767). A rule that the unsteered model
breaks itself is not applied.
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

FAULTY = 0.05  # share of faulty answers that stops a line: above 10 of the paper's 200 choices
SKIP_BELOW, STOP_BELOW = 0.15, 0.05  # relative accuracy on the target


class Verdict(Enum):
    """The consequence of a record for the stronger settings of its line."""

    CONTINUE = "continue"
    SKIP_ONE = "skip one"
    STOP = "stop"


@dataclass(frozen=True)
class Subject:
    """The model that is measured, and the size of its forward passes.

    `batch_size` is the number of texts per forward pass and setting, `at_once` that of settings.
    """

    patched: Patched
    model: nn.Module
    tokenizer: Any
    batch_size: int = 8
    at_once: int = 8


class Task(Protocol):
    """A measurement that can be made under many settings."""

    @property
    def facts(self) -> dict[str, Any]:
        """A description for files, with hashes of the data."""

    @property
    def items(self) -> int:
        """The number of texts."""

    def check(self, subject: Subject) -> None:
        """Raise ValueError if the model cannot be measured, before any long computation."""

    def measure(
        self, subject: Subject, settings: Sequence[Setting], advance: Advance
    ) -> tuple[Record, list[Record]]:
        """Return the records of the unsteered model and of each setting: ``scores``, ``items``.

        `advance` is called with the number of (text, setting) pairs completed.
        """

    def verdict(self, record: Record, unsteered: Record) -> Verdict:
        """Return whether stronger settings than the record's are measured."""


@dataclass(frozen=True)
class ChoicesTask:
    """The matching score on choices; a line stops on collapse or above 5 % of faulty answers."""

    name: str
    choices: Sequence[Choice]

    @property
    def facts(self) -> dict[str, Any]:
        """See `Task`."""
        sha256 = data_hash([list(choice) for choice in self.choices])
        return {"kind": "choices", "name": self.name, "items": self.items, "sha256": sha256}

    @property
    def items(self) -> int:
        """See `Task`."""
        return len(self.choices)

    def check(self, subject: Subject) -> None:
        """See `Task`. Raises for an option that is not a single token."""
        Questions(subject.model, subject.tokenizer, self.choices)

    def measure(
        self, subject: Subject, settings: Sequence[Setting], advance: Advance
    ) -> tuple[Record, list[Record]]:
        """See `Task`."""
        runner = ManySettings(subject.patched, settings, subject.at_once)
        questions = Questions(subject.model, subject.tokenizer, self.choices)
        *found, unsteered = questions.scores(runner, subject.batch_size, advance)
        return _matching_record(unsteered), [_matching_record(matching) for matching in found]

    def verdict(self, record: Record, unsteered: Record) -> Verdict:
        """See `Task`."""
        scores, reference = record["scores"], unsteered["scores"]
        most = FAULTY * self.items
        collapsed = scores["collapsed"] and not reference["collapsed"]
        faulty = scores["faulty"] > most >= reference["faulty"]
        return Verdict.STOP if collapsed or faulty else Verdict.CONTINUE


@dataclass(frozen=True)
class DocumentsTask:
    """Next-token accuracy on several named sets of documents.

    A line stops where the accuracy on the target, relative to the unsteered model's, is below 5 %,
    and skips one coefficient where it is below 15 %.
    """

    sets: Mapping[str, Sequence[str]]
    target: str
    max_length: int | None = None

    @property
    def facts(self) -> dict[str, Any]:
        """See `Task`."""
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
        """See `Task`."""
        return sum(map(len, self.sets.values()))

    def check(self, subject: Subject) -> None:
        """See `Task`. Raises for a target that is not a set, and a text too short or too long."""
        if self.target not in self.sets:
            raise ValueError(
                f"target {self.target!r} is not a set; there are {', '.join(self.sets)}"
            )
        self.check_texts(subject)

    def check_texts(self, subject: Subject) -> None:
        """Raise ValueError for a text that is too short or too long."""
        self._encoded(subject)

    def measure(
        self, subject: Subject, settings: Sequence[Setting], advance: Advance
    ) -> tuple[Record, list[Record]]:
        """See `Task`."""
        runner = ManySettings(subject.patched, settings, subject.at_once)
        records: list[Record] = [{"scores": {}, "items": {}} for _ in range(len(settings) + 1)]
        for name, texts in self._encoded(subject).items():
            found = texts.scores(runner, subject.batch_size, advance)
            for record, scores in zip(records, found, strict=True):
                record["scores"][name] = token_record(scores, found[-1])
                record["items"][name] = scores.items()
        return records[-1], records[:-1]

    def verdict(self, record: Record, unsteered: Record) -> Verdict:
        """See `Task`."""
        return accuracy_verdict(record["scores"][self.target]["relative"])

    def _encoded(self, subject: Subject) -> dict[str, ScoredTexts]:
        return {
            name: ScoredTexts(subject.model, subject.tokenizer, texts, self.max_length)
            for name, texts in self.sets.items()
        }


def _matching_record(found: Matching) -> Record:
    scores = {
        "score": found.score,
        "faulty": found.faulty,
        "collapsed": found.collapsed,
        "probability": _finite(found.probability),
        "preferred": found.preferred,
        "mass": _finite(found.mass),
    }
    return {"scores": scores, "items": found.items()}


def accuracy_verdict(relative: float | None) -> Verdict:
    """Return the verdict for an accuracy relative to the unsteered model's; None if that is 0."""
    if relative is None or relative >= SKIP_BELOW:
        return Verdict.CONTINUE
    return Verdict.STOP if relative < STOP_BELOW else Verdict.SKIP_ONE


def token_record(scores: TokenScores, unsteered: TokenScores) -> dict[str, float | None]:
    """Return what a record holds of the scores on a set of documents."""
    return {
        "accuracy": scores.accuracy,
        "accuracy10": scores.accuracy10,
        "relative": _ratio(scores.accuracy, unsteered.accuracy),
        "relative10": _ratio(scores.accuracy10, unsteered.accuracy10),
        "perplexity": _finite(scores.perplexity),
        "kl": _finite(scores.kl),
    }


def _ratio(value: float, unsteered: float) -> float | None:
    return value / unsteered if unsteered else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
