"""Sweeps: a task measured under many settings, line by line of growing strength.

Settings are measured in waves: the next few of every line at once, which share a batch and the
layers below the steering. What a wave measured behind the end of a line is thrown away, so the
results are those of one setting after the other.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from torch import nn

from faststeer.evaluate.provenance import model_facts, vector_hash, versions
from faststeer.evaluate.records import Record, Records, Setting, key_of
from faststeer.evaluate.tasks import Subject, Task, Verdict
from faststeer.patching.patch import temporarily_patched
from faststeer.steering.stated_use import positions_in_texts
from faststeer.utils.files import write_whole
from faststeer.utils.progress import Advance, progress_bar
from faststeer.vectors.arguments import chosen_layers, finite
from faststeer.vectors.steering_vector import SteeringVector

WAVE = 16  # settings; where lines stop early, some of them are measured in vain

Line = list[Setting]
RESULTS, SUMMARY = "results.jsonl", "summary.json"


def grid(
    vectors: Sequence[SteeringVector], layers: Sequence[int], coefficients: Sequence[float]
) -> list[Line]:
    """A line for each vector, layer and sign, the coefficient nearest to zero first.

    Raises:
        TypeError: a coefficient that is no number.
        ValueError: a coefficient of 0, which is the unsteered model, measured in any case; one that
            is there twice, or not finite; none at all; a layer that a vector lacks.
    """
    for coefficient in coefficients:
        finite(coefficient, "a coefficient")
    if not coefficients or len(set(coefficients)) < len(coefficients) or 0 in coefficients:
        raise ValueError(
            f"coefficients {list(coefficients)}: expected at least one, each once, and not 0, "
            "which is measured anyway"
        )
    lines: list[Line] = []
    for vector in vectors:
        vector.select(list(layers))
        for layer in layers:
            for sign in (1, -1):
                amounts = sorted((c for c in coefficients if sign * c > 0), key=abs)
                if amounts:
                    lines.append([{vector.name: {layer: c}} for c in amounts])
    return lines


def measure_lines(
    subject: Subject,
    task: Task,
    lines: Sequence[Line],
    records: Records,
    advance: Advance = lambda steps: None,
) -> list[Record]:
    """Measure each line up to where the task's verdict ends it.

    Args:
        subject: the model; its handles have the vectors that settings name.
        task: what is measured.
        lines: settings of growing strength; verdicts count within a line.
        records: what is there is not measured again; each wave's records are added when it is done.
        advance: told how many pairs of a text and a setting are done, or need not be done.

    Returns:
        The unsteered record and those of the lines, in the order of the waves.
    """
    left = [list(line) for line in lines]
    done: list[Record] = []
    while not done or any(left):
        each = max(1, WAVE // max(1, sum(map(bool, left))))
        wave = [setting for line in left for setting in line[:each]]
        before = sum(map(len, left))
        walked = _walked(task, left, each, records.by_key)
        if walked is None:
            unsteered, found = task.measure(subject, wave, advance)
            both = zip([{}, *wave], [unsteered, *found], strict=True)
            measured = {key_of(setting): record for setting, record in both}
            walked = _walked(task, left, each, measured)
            assert walked is not None
            records.add([(setting, measured[key_of(setting)]) for setting in walked[0]])
            before -= len(wave)
        kept, left = walked
        done += [records.by_key[key_of(setting)] for setting in kept[bool(done) :]]
        advance((before - sum(map(len, left))) * task.items)
    return done


def _walked(
    task: Task, left: list[Line], each: int, known: Mapping[str, Record]
) -> tuple[list[Setting], list[Line]] | None:
    """The settings of a wave that count, the unsteered one first, and what is left of the lines;
    None where a record is not known.
    """
    unsteered = known.get(key_of({}))
    if unsteered is None:
        return None
    kept: list[Setting] = [{}]
    rest: list[Line] = []
    for line in left:
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
) -> list[Record]:
    """Measure a task at every layer, coefficient and vector, up to where the task's rules stop.

    Writes ``results.jsonl`` into the folder `output`, as the results come, and ``summary.json`` at
    the end. A sweep that was interrupted goes on where it was; layers and coefficients may be
    added.

    Args:
        model: a model that `patch` accepts, patched or not; what steers it otherwise does not.
        tokenizer: its tokenizer.
        task: a `ChoicesTask` or `DocumentsTask`.
        vectors: of different names.
        layers: 0-based decoder layers, or "all".
        coefficients: on each layer's direction; 0 is measured anyway.
        output: a folder, made where it is not there.
        seed: with which the task's data was drawn; only told in the files.
        batch_size: texts a forward.
        at_once: settings a forward, each with these texts.
        progress: show a bar with the time left.

    Returns:
        A record for the unsteered model, then one a setting: ``steering``, ``scores``, ``items``.

    Raises:
        OSError: the folder cannot be written.
        ValueError: vectors of one name, a layer or coefficient that makes no sense, a folder with
            the results of another sweep, and what the task raises.
    """
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
                handles.append(handle)  # rows say how much
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
