"""How a setting does on each skill: documents of several sources, of which skills are made."""

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
    """Next-token accuracy on skills; the rules of `DocumentsTask` end a line.

    `documents`: by source. `skills`: {skill: {source: so many of its first documents}}; a document
    that several skills share is measured once. `target`: the skill whose loss ends a line.
    """

    documents: DocumentsTask
    skills: Mapping[str, Mapping[str, int]]
    target: str

    @property
    def facts(self) -> dict[str, Any]:
        """As `Task` says."""
        return {
            **self.documents.facts,
            "kind": "skills",
            "skills": self.skills,
            "target": self.target,
        }

    @property
    def items(self) -> int:
        """As `Task` says."""
        return self.documents.items

    def check(self, subject: Subject) -> None:
        """As `Task` says."""
        self.documents.check_texts(subject)  # the target is a skill, and no set

    def measure(
        self, subject: Subject, settings: Sequence[Setting], advance: Advance
    ) -> tuple[Record, list[Record]]:
        """As `Task` says: scores by skill, items by source."""
        unsteered, records = self.documents.measure(subject, settings, advance)
        return self._told(unsteered, unsteered), [self._told(own, unsteered) for own in records]

    def verdict(self, record: Record, unsteered: Record) -> Verdict:
        """As `Task` says."""
        return accuracy_verdict(record["scores"][self.target]["relative"])

    def _told(self, record: Record, unsteered: Record) -> Record:
        scores = {
            skill: token_record(scores_of(record, sources), scores_of(unsteered, sources))
            for skill, sources in self.skills.items()
        }
        return {"scores": scores, "items": record["items"]}


def scores_of(record: Record, sources: Mapping[str, int]) -> TokenScores:
    """A record's scores of so many of the first documents of each source, one after the other."""
    items: dict[str, list[Any]] = {}
    for source, count in sources.items():
        for name, values in record["items"][source].items():
            items.setdefault(name, []).extend(values[:count])
    return TokenScores.from_items(items)
