"""Results in a JSONL file, appended as they are measured, from which an interrupted run resumes.

The first line is a header that identifies the experiment. Every other line is a record with its
setting under ``steering``: {name of a vector: {layer: coefficient}}, ``{}`` if unsteered.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

Record = dict[str, Any]
Setting = Mapping[str, Mapping[int, float]]


def key_of(setting: Mapping[str, Mapping[Any, float]]) -> str:
    """Return a canonical text of a setting: equal settings have equal texts."""
    return json.dumps(
        {
            name: {str(layer): float(c) for layer, c in sorted(coefficients.items(), key=_layer)}
            for name, coefficients in sorted(setting.items())
        }
    )


class Records:
    """The records of one file; `by_key` maps `key_of` a setting to its record."""

    def __init__(self, path: str | PathLike[str], header: Mapping[str, Any]) -> None:
        """Open or create the file and read its records; an incomplete last line is dropped.

        Raises:
            OSError: the file cannot be written.
            ValueError: the file has another header or is not a file of records; it is not changed.
        """
        self.path = Path(path)
        self.by_key: dict[str, Record] = {}
        first = _line(header)
        with self.path.open("a+b") as file:
            file.seek(0)
            lines = file.read().splitlines(keepends=True)
            cut = lines.pop() if lines and not lines[-1].endswith(b"\n") else b""
            for number, line in enumerate(lines, 1):
                content = self._parsed(number, line)
                if number == 1:
                    self._require_same(content, json.loads(first))
                else:
                    self.by_key[key_of(content["steering"])] = content
            if not lines and not first.startswith(cut):  # may be a complete file of another kind
                self._require_same(self._parsed(1, cut), json.loads(first))
            file.truncate(sum(map(len, lines)))
            if not lines:
                file.write(first)

    def add(self, records: Iterable[tuple[Setting, Mapping[str, Any]]]) -> None:
        """Append the records of new settings, all in one write."""
        lines = []
        for setting, content in records:
            key = key_of(setting)
            if key not in self.by_key:
                line = _line({"steering": json.loads(key), **content})
                self.by_key[key] = json.loads(line)  # as a later run will read it
                lines.append(line)
        with self.path.open("ab") as file:
            file.write(b"".join(lines))

    def _parsed(self, number: int, line: bytes) -> Record:
        try:
            content = json.loads(line)
            if number > 1:
                key_of(content["steering"])
                dict(content["scores"])
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError(f"{self.path}, line {number}: not a record of a sweep") from error
        if not isinstance(content, dict):
            raise ValueError(f"{self.path}, line {number}: not a record of a sweep")
        return content

    def _require_same(self, header: Record, expected: Record) -> None:
        for name in sorted(header.keys() | expected.keys()):
            if header.get(name) != expected.get(name):
                raise ValueError(
                    f"{self.path} is of another sweep: its {name} is "
                    f"{json.dumps(header.get(name))}, and not {json.dumps(expected.get(name))}; "
                    "choose another folder, or remove it"
                )


def _line(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _layer(item: tuple[Any, float]) -> int:
    return int(item[0])
