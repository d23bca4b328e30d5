"""Sweeps: a task measured under many settings, along lines of growing strength.

Settings are measured in waves, the next few of every line at once, which share a batch and the
layers below the steering. Measurements beyond the end of a line are discarded, so the results equal
those of one setting after the other.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, NoReturn

from torch import nn

from faststeer.evaluate.provenance import model_facts, vector_hash, versions
from faststeer.evaluate.records import Record, Records, Setting, key_of
from faststeer.evaluate.tasks import Subject, Task, Verdict
from faststeer.patching.patch import temporarily_patched
from faststeer.steering.resolved_use import positions_in_texts
from faststeer.utils.files import write_whole
from faststeer.utils.progress import Advance, progress_bar
from faststeer.vectors.arguments import chosen_layers, finite, require_several
from faststeer.vectors.other_spelling import refuse_unknown
from faststeer.vectors.steering_vector import SteeringVector

WAVE = 16  # settings per wave; where lines stop early, some are measured and discarded

Line = list[Setting]
RESULTS, SUMMARY = "results.jsonl", "summary.json"


def grid(
    vectors: Sequence[SteeringVector], layers: Sequence[int], coefficients: Sequence[float]
) -> list[Line]:
    """Return a line per vector, layer and sign, the coefficient nearest to zero first.

    Raises:
        TypeError: a coefficient that is not a number.
        ValueError: no coefficients; a coefficient of 0 (the unsteered model, which is always
            measured), a repeated one, or one that is not finite; a layer that a vector lacks.
    """
    for coefficient in coefficients:
        finite(coefficient, "a coefficient")
    if not coefficients or len(set(coefficients)) < len(coefficients) or 0 in coefficients:
        raise ValueError(
            f"coefficients {list(coefficients)}: expected at least one, each once, and not 0, "
            "which is always measured"
        )
    lines: list[Line] = []
    for vector in vectors:
        vector.select(list(layers))
        for layer in layers:
            for sign in (1, -1):
                ascending = sorted((c for c in coefficients if sign * c > 0), key=abs)
                if ascending:
                    lines.append([{vector.name: {layer: c}} for c in ascending])
    return lines


def measure_lines(
    subject: Subject,
    task: Task,
    lines: Sequence[Line],
    records: Records,
    advance: Advance = lambda steps: None,
) -> list[Record]:
    """Measure each line until the task's verdict stops it.

    Args:
        subject: the model, whose handles the settings name.
        task: what is measured.
        lines: settings of growing strength; a verdict applies to the rest of its line.
        records: the file of results. Settings in it are not measured again, and each wave's records
            are added when the wave is complete.
        advance: called with the number of (text, setting) pairs completed or skipped.

    Returns:
        The unsteered record and those of the lines, in the order of the waves.
    """
    remaining = [list(line) for line in lines]
    done: list[Record] = []
    while not done or any(remaining):
        each = max(1, WAVE // max(1, sum(map(bool, remaining))))
        wave = [setting for line in remaining for setting in line[:each]]
        before = sum(map(len, remaining))
        followed = _follow_lines(task, remaining, each, records.by_key)
        if followed is None:
            unsteered, found = task.measure(subject, wave, advance)
            both = zip([{}, *wave], [unsteered, *found], strict=True)
            measured = {key_of(setting): record for setting, record in both}
            followed = _follow_lines(task, remaining, each, measured)
            assert followed is not None
            records.add([(setting, measured[key_of(setting)]) for setting in followed[0]])
            before -= len(wave)
        kept, remaining = followed
        done += [records.by_key[key_of(setting)] for setting in kept[bool(done) :]]
        advance((before - sum(map(len, remaining))) * task.items)
    return done


def _follow_lines(
    task: Task, remaining: list[Line], each: int, known: Mapping[str, Record]
) -> tuple[list[Setting], list[Line]] | None:
    """Apply the task's verdicts to the next `each` settings of every line.

    Returns the settings that are kept, the unsteered one first, and the rest of the lines; None if
    the record of such a setting is not `known`.
    """
    unsteered = known.get(key_of({}))
    if unsteered is None:
        return None
    kept: list[Setting] = [{}]
    rest: list[Line] = []
    for line in remaining:
        at = 0
        while at < min(each, len(line)):
            record = known.get(key_of(line[at]))
            if record is None:
                return None
            kept.append(line[at])
            verdict = task.verdict(record, unsteered)
            at = len(line) if verdict is Verdict.STOP else at + 1 + (verdict is Verdict.SKIP_ONE)
        rest.append(line[at:])
    return kept, rest


def sweep(
    model: nn.Module,
    tokenizer: Any,
    task: Task,
    vectors: Sequence[SteeringVector],
    *,
    layers: str | int | Sequence[int],
    coefficients: Sequence[float],
    output: str | PathLike[str],
    seed: int | None = None,
    batch_size: int = 8,
    at_once: int = 8,
    progress: bool = True,
    **unknown: NoReturn,
) -> list[Record]:
    """Measure a task for every vector, layer and coefficient, until the task's rules stop a line.

    Appends to ``results.jsonl`` in the folder `output` while it runs, and writes ``summary.json``
    at the end. An interrupted sweep resumes from these results; layers and coefficients may be
    added to a finished one.

    Args:
        model: a model that `patch` accepts, patched or not; its other steering is off.
        tokenizer: its tokenizer.
        task: a `ChoicesTask` or `DocumentsTask`.
        vectors: of different names.
        layers: 0-based decoder layers, or "all".
        coefficients: factors of each layer's direction; 0 is always measured.
        output: a folder, which is created if it does not exist.
        seed: the seed that selected the task's data; it is only recorded in the files.
        batch_size: texts per forward pass and setting.
        at_once: settings per forward pass.
        progress: show a progress bar with the remaining time.
        unknown: nothing; other keywords are refused.

    Returns:
        The record of the unsteered model, then one per setting, with the keys ``steering``,
        ``scores`` and ``items``.

    Raises:
        OSError: the folder cannot be written.
        TypeError: a coefficient that is not a number.
        ValueError: vectors of the same name, an invalid layer or coefficient, a folder with the
            results of another sweep, and as the task's `check`.
    """
    refuse_unknown("sweep", unknown, "layers")
    require_several(vectors, "vectors")
    names = [vector.name for vector in vectors]
    if len(set(names)) < len(names) or not names:
        raise ValueError(f"vectors are named {names}; expected at least one, of different names")
    folder = Path(output)
    with temporarily_patched(model) as patched:
        if taken := set(names) & patched.plan.interventions.keys():
            raise ValueError(f"vectors named {sorted(taken)} steer the model already; rename them")
        numbers = chosen_layers(layers, patched.num_layers)
        lines = grid(vectors, numbers, coefficients)
        header = {
            "sweep": 1,
            "model": model_facts(model),
            "task": task.facts,
            "vectors": {vector.name: vector_hash(vector) for vector in vectors},
            "seed": seed,
        }
        subject = Subject(patched, model, tokenizer, batch_size, at_once)
        task.check(subject)
        total = sum(map(len, lines)) * task.items
        handles = []
        try:
            for vector in vectors:
                positions = positions_in_texts(vector)
                handle = patched.steer(vector, 0.0, layers=numbers, positions=positions)
                handles.append(handle)  # the settings' rows set the coefficients
            folder.mkdir(parents=True, exist_ok=True)
            records = Records(folder / RESULTS, header)
            with progress_bar("sweeping", total, progress) as advance:
                found = measure_lines(subject, task, lines, records, advance)
        finally:
            for handle in handles:
                handle.remove()
    summary = {
        **header,
        "versions": versions(),
        "layers": numbers,
        "coefficients": list(coefficients),
        "results": [{"steering": r["steering"], "scores": r["scores"]} for r in found],
    }
    content = json.dumps(summary, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_whole(folder / SUMMARY, content.encode())
    return found
