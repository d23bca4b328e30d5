"""Measuring an experiment's settings into files from which an interrupted run resumes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faststeer.evaluate.provenance import vector_hash
from faststeer.evaluate.records import Record, Records, Setting, key_of
from faststeer.evaluate.sweeping import Line, measure_lines
from faststeer.evaluate.tasks import Subject, Task
from faststeer.utils.progress import progress_bar
from faststeer.vectors.steering_vector import SteeringVector

_AT_A_TIME = 48  # settings

Measured = Mapping[str, Record]  # by `key_of` the setting
Measure = Callable[[str, Task, Sequence[Line]], Measured]  # `Recorder.measure` of some vectors


@dataclass(frozen=True)
class Recorder:
    """Measures tasks on one model and keeps the records in one folder.

    `facts` is what all records depend on. Each file begins with it, with its task and with the
    hashes of its vectors, and is resumed only where all of these are the same.
    """

    subject: Subject
    folder: Path
    facts: Mapping[str, Any]
    progress: bool

    def measure(
        self, file: str, task: Task, lines: Sequence[Line], vectors: Iterable[SteeringVector]
    ) -> Measured:
        """Measure each line of settings up to where the task's verdict ends it.

        Args:
            file: the name of the records' file, without its suffix.
            task: what is measured.
            lines: settings of growing strength; the unsteered model is measured in any case.
            vectors: the vectors that the settings name.

        Raises:
            OSError: the folder cannot be written.
            ValueError: the model cannot do the task, or the file has records of something else.
        """
        task.check(self.subject)
        steering = list(vectors)
        hashes = {vector.name: vector_hash(vector) for vector in steering}
        header = {**self.facts, "task": task.facts, "vectors": hashes}
        records = Records(self.folder / f"{file}.jsonl", header)
        total = sum(map(len, lines)) * task.items
        with ExitStack() as stack:
            for vector in steering:
                stack.callback(self.subject.patched.steer(vector, 0.0).remove)
            advance = stack.enter_context(progress_bar(file, total, self.progress))
            measured = measure_lines(self.subject, task, lines, records, advance)
        return {key_of(record["steering"]): record for record in measured}


def independent(settings: Iterable[Setting]) -> list[Line]:
    """Return a line per different setting, so that no verdict on one ends another."""
    different = {key_of(setting): setting for setting in settings}
    return [[setting] for key, setting in different.items() if key != key_of({})]


def measured_settings(
    measure: Measure, file: str, task: Task, settings: Iterable[Setting]
) -> Measured:
    """Measure independent settings a few at a time: an interrupted run keeps those that are done.

    The arguments are those of `Recorder.measure`, with settings in place of lines.
    """
    lines = independent(settings)
    found = dict(measure(file, task, lines[:_AT_A_TIME]))
    for start in range(_AT_A_TIME, len(lines), _AT_A_TIME):
        found |= measure(file, task, lines[start : start + _AT_A_TIME])
    return found
