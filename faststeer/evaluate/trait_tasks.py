"""The task of a sweep over traits: how likely prompts are continued as each trait would."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from faststeer.data.trait_files import OpenPrompt
from faststeer.evaluate.continuation_sets import OpenPrompts, SetScores
from faststeer.evaluate.provenance import data_hash
from faststeer.evaluate.records import Record, Setting
from faststeer.evaluate.setting_runs import ManySettings
from faststeer.evaluate.tasks import Subject, Verdict
from faststeer.utils.progress import Advance


@dataclass(frozen=True)
class TraitsTask:
    """The matching probability of several traits' prompts; no score ends a line of settings.

    A record's ``items`` are the log-masses of each trait's prompts, by the trait's name.
    """

    prompts: Mapping[str, Sequence[OpenPrompt]]

    @property
    def facts(self) -> dict[str, Any]:
        """See `Task`."""
        sets = {
            name: {
                "prompts": len(own),
                "sha256": data_hash([[one.prompt, one.positive, one.negative] for one in own]),
            }
            for name, own in self.prompts.items()
        }
        return {"kind": "traits", "sets": sets}

    @property
    def items(self) -> int:
        """See `Task`. Prompts: their texts are known once a model's tokenizer is."""
        return sum(map(len, self.prompts.values()))

    def check(self, subject: Subject) -> None:
        """See `Task`. Raises for prompts and continuations that the tokenizer does not separate."""
        self._encoded(subject)

    def measure(
        self, subject: Subject, settings: Sequence[Setting], advance: Advance
    ) -> tuple[Record, list[Record]]:
        """See `Task`."""
        records: list[Record] = [{"scores": {}, "items": {}} for _ in range(len(settings) + 1)]
        for name, prompts in self._encoded(subject).items():
            runner = ManySettings(subject.patched, settings, subject.at_once)
            for record, found in zip(
                records, prompts.scores(runner, subject.batch_size), strict=True
            ):
                record["scores"][name] = {
                    "probability": _finite(found.probability),
                    "mass": _finite(found.mass),
                }
                record["items"][name] = found.items()
            advance(len(settings) * len(self.prompts[name]))
        return records[-1], records[:-1]

    def verdict(self, record: Record, unsteered: Record) -> Verdict:
        """Continue after every setting."""
        return Verdict.CONTINUE

    def _encoded(self, subject: Subject) -> dict[str, OpenPrompts]:
        found = {}
        for name, prompts in self.prompts.items():
            try:
                found[name] = OpenPrompts(subject.model, subject.tokenizer, prompts)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
        return found


def scores_of(record: Record, trait: str) -> SetScores:
    """Return a record's scores on a trait's prompts."""
    return SetScores.from_items(record["items"][trait])


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
