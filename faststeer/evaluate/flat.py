"""Records of a sweep as flat dicts, of which pandas makes a table by itself."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from faststeer.evaluate.records import Record
from faststeer.utils.text_files import read_utf8

_RESULTS = "results.jsonl"


def flat_records(
    results: Iterable[Record] | str | PathLike[str],
) -> list[dict[str, Any]]:
    """Return a flat dict per setting: ``pandas.DataFrame(flat_records(sweep(...)))``.

    Keys are "steering", the setting as text; "vector", "layer" and "coefficient", None for a
    setting of several vectors or layers; and the scores, of which nested ones are joined by a dot,
    such as "prose.accuracy". The unsteered model has vector and layer None, coefficient 0.

    Args:
        results: what `sweep` or `measure_lines` returned, or the folder or file that they wrote.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not a file of records.
    """
    records = _read(Path(results)) if isinstance(results, (str, PathLike)) else results
    return [{**_setting(own["steering"]), **dict(_flat(own["scores"]))} for own in records]


def _setting(steering: Mapping[str, Mapping[Any, float]]) -> dict[str, Any]:
    """Return the keys that name a setting."""
    terms = [
        (vector, int(layer), float(coefficient))
        for vector, by_layer in steering.items()
        for layer, coefficient in by_layer.items()
    ]
    text = "; ".join(f"{vector} at layer {layer}: {c:g}" for vector, layer, c in terms)
    vector, layer, coefficient = terms[0] if len(terms) == 1 else (None, None, None)
    return {
        "steering": text or "unsteered",
        "vector": vector,
        "layer": layer,
        "coefficient": coefficient if terms else 0.0,
    }


def _flat(scores: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in scores.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _read(path: Path) -> list[Record]:
    """Return the records of a file, without its header and without an incomplete last line."""
    file = path / _RESULTS if path.is_dir() else path
    lines = read_utf8(file, "a sweep's results.jsonl, or its folder").split("\n")[1:-1]
    records = []
    for number, line in enumerate(lines, 2):
        try:
            own = json.loads(line)
            records.append({"steering": dict(own["steering"]), "scores": dict(own["scores"])})
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{file}, line {number}: not a record of a sweep") from error
    return records
