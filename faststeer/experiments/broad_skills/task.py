"""Next-token accuracy per skill, on documents of several sources that make up the skills."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from faststeer.evaluate.next_token import TokenScores
from faststeer.evaluate.records import Record, Setting
from faststeer.evaluate.tasks import DocumentsTask, Subject, Verdict, accuracy_verdict, token_record
from faststeer.utils.progress import Advance


@dataclass(frozen=True)
class SkillsTask:
    """Next-token accuracy on skills; lines end by the rules of `DocumentsTask`.

    `documents`: by source. `skills`: {skill: {source: how many of its first documents}}; a document
    that several skills share is measured once. `target`: the skill whose loss ends a line.
    """

    documents: DocumentsTask
    skills: Mapping[str, Mapping[str, int]]
    target: str

    @property
    def facts(self) -> dict[str, Any]:
        """Facts of the documents, and the skills."""
        return {
            **self.documents.facts,
            "kind": "skills",
            "skills": self.skills,
            "target": self.target,
        }

    @property
    def items(self) -> int:
        """The number of documents."""
        return self.documents.items

    def check(self, subject: Subject) -> None:
        """Raise ValueError for a text that is too long or too short."""
        self.documents.check_texts(subject)  # the target is a skill, not a set

    def measure(
        self, subject: Subject, settings: Sequence[Setting], advance: Advance
    ) -> tuple[Record, list[Record]]:
        """Measure the unsteered model and each setting: scores by skill, items by source."""
        unsteered, records = self.documents.measure(subject, settings, advance)
        return self._by_skill(unsteered, unsteered), [
            self._by_skill(own, unsteered) for own in records
        ]

    def verdict(self, record: Record, unsteered: Record) -> Verdict:
        """Judge a setting by the relative accuracy on the target."""
        return accuracy_verdict(record["scores"][self.target]["relative"])

    def _by_skill(self, record: Record, unsteered: Record) -> Record:
        scores = {
            skill: token_record(scores_of(record, sources), scores_of(unsteered, sources))
            for skill, sources in self.skills.items()
        }
        return {"scores": scores, "items": record["items"]}


def scores_of(record: Record, sources: Mapping[str, int]) -> TokenScores:
    """Return a record's scores on the first documents of each source, concatenated."""
    items: dict[str, list[Any]] = {}
    for source, count in sources.items():
        for name, values in record["items"][source].items():
            items.setdefault(name, []).extend(values[:count])
    return TokenScores.from_items(items)
