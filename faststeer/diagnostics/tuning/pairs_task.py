"""Contrast pairs as the task of a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from faststeer.diagnostics.tuning.objectives import PairItems
from faststeer.evaluate.provenance import data_hash
from faststeer.evaluate.records import Record, Setting
from faststeer.evaluate.tasks import Subject, Verdict
from faststeer.utils.progress import Advance


@dataclass(frozen=True)
class PairsTask:
    """How much likelier the positive text of a pair is than the negative one; ends no line.

    The score is ``margin``, the mean over the pairs in nats per token, and the items are its
    values; docs/evaluation.md says over which tokens.
    """

    name: str
    pairs: Sequence[tuple[str, str]]
    max_length: int | None = None
    add_special_tokens: bool = True

    @property
    def facts(self) -> dict[str, Any]:
        """See `Task`."""
        sha256 = data_hash([list(pair) for pair in self.pairs])
        return {
            "kind": "pairs",
            "name": self.name,
            "items": self.items,
            "max_length": self.max_length,
            "sha256": sha256,
        }

    @property
    def items(self) -> int:
        """See `Task`."""
        return len(self.pairs)

    def check(self, subject: Subject) -> None:
        """See `Task`. Raises for pairs whose texts do not differ or are too long."""
        self._encoded(subject)

    def measure(
        self, subject: Subject, settings: Sequence[Setting], advance: Advance
    ) -> tuple[Record, list[Record]]:
        """See `Task`."""
        found = self._encoded(subject).measure(subject, settings, advance)
        records: list[Record] = []
        for values in found:
            finite = bool(values.isfinite().all())
            records.append(
                {
                    "scores": {"margin": float(values.mean()) if finite else None},
                    "items": {"margin": values.tolist() if finite else None},
                }
            )
        return records[-1], records[:-1]

    def verdict(self, record: Record, unsteered: Record) -> Verdict:
        """See `Task`: the line ends where logits are no longer finite."""
        return Verdict.STOP if record["scores"]["margin"] is None else Verdict.CONTINUE

    def _encoded(self, subject: Subject) -> PairItems:
        return PairItems(
            subject.model,
            subject.tokenizer,
            self.pairs,
            self.max_length,
            self.add_special_tokens,
        )
