"""Measuring settings into files, so that an interrupted experiment goes on where it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faststeer.data.questions import Choice
from faststeer.evaluate.records import Record, Records, Setting, key_of
from faststeer.evaluate.sweeping import Line, measure_lines
from faststeer.evaluate.tasks import ChoicesTask, DocumentsTask, Subject, Task
from faststeer.utils.progress import progress_bar

TEXT = "text"

Found = Mapping[str, Record]  # by `key_of` the setting


@dataclass(frozen=True)
class Bench:
    """A model with the vectors at work, and the folder that the records go to.

    `facts` is what all of them depend on, and stands at the beginning of each file.
    """

    subject: Subject
    folder: Path
    facts: Mapping[str, Any]
    shown: bool

    def records(self, name: str, of: Mapping[str, Any]) -> Records:
        """Those of one file. Raises ValueError where it holds something else than these facts."""
        return Records(self.folder / f"{name}.jsonl", {**self.facts, "task": of})

    def lines(
        self, part: str, name: str, choices: Sequence[Choice], lines: Sequence[Line]
    ) -> Found:
        """A behaviour's answers, each line up to where the paper's rules end it."""
        return self._measured(f"{part}-{name}", ChoicesTask(name, choices), lines)

    def answers(
        self, part: str, name: str, choices: Sequence[Choice], settings: Sequence[Setting]
    ) -> Found:
        """A behaviour's answers under every setting."""
        return self.lines(part, name, choices, _each_alone(settings))

    def texts(
        self, part: str, texts: Sequence[str], max_length: int, settings: Sequence[Setting]
    ) -> Found:
        """Next tokens of general text under every setting."""
        task = DocumentsTask({TEXT: texts}, TEXT, max_length)
        return self._measured(f"{part}-{TEXT}", task, _each_alone(settings))

    def _measured(self, file: str, task: Task, lines: Sequence[Line]) -> Found:
        records = self.records(file, task.facts)
        total = sum(map(len, lines)) * task.items
        with progress_bar(file, total, self.shown) as advance:
            found = measure_lines(self.subject, task, lines, records, advance)
        return {key_of(record["steering"]): record for record in found}


def _each_alone(settings: Sequence[Setting]) -> list[Line]:
    """Lines of one setting each, none of them twice, and none for the unsteered model."""
    different = {key_of(setting): setting for setting in settings}
    return [[own] for key, own in different.items() if key != key_of({})]
