"""A task beside which neutral texts are measured: what a setting costs, next to what it does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from faststeer.evaluate.records import Record, Setting
from faststeer.evaluate.tasks import DocumentsTask, Subject, Task, Verdict
from faststeer.utils.progress import Advance

NEUTRAL = "neutral"


@dataclass(frozen=True)
class WithDamage:
    """A task, and the next tokens of neutral texts under the same settings.

    A record has the scores and items of the task, and those of the texts under "neutral".
    """

    task: Task
    texts: Sequence[str]
    max_length: int | None = 64

    @property
    def facts(self) -> dict[str, Any]:
        """See `Task`."""
        return {**self.task.facts, NEUTRAL: self._neutral.facts}

    @property
    def items(self) -> int:
        """See `Task`."""
        return self.task.items + len(self.texts)

    def check(self, subject: Subject) -> None:
        """See `Task`."""
        self.task.check(subject)
        self._neutral.check(subject)

    def measure(
        self, subject: Subject, settings: Sequence[Setting], advance: Advance
    ) -> tuple[Record, list[Record]]:
        """See `Task`."""
        unsteered, found = self.task.measure(subject, settings, advance)
        before, after = self._neutral.measure(subject, settings, advance)
        for record, neutral in zip([unsteered, *found], [before, *after], strict=True):
            record["scores"][NEUTRAL] = neutral["scores"][NEUTRAL]
            record["items"][NEUTRAL] = neutral["items"][NEUTRAL]
        return unsteered, found

    def verdict(self, record: Record, unsteered: Record) -> Verdict:
        """See `Task`: that of the task alone."""
        return self.task.verdict(record, unsteered)

    @property
    def _neutral(self) -> DocumentsTask:
        return DocumentsTask({NEUTRAL: self.texts}, NEUTRAL, self.max_length)
