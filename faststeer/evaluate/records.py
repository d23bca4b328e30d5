"""Results in a JSONL file that grows as they come; an interrupted run goes on from it.

The first line says what the results are of. Every other one is a record with its setting under
``steering``: {name of a vector: {layer: coefficient}}, ``{}`` for the unsteered model.
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
    """One text for equal settings."""
    return json.dumps(
        {
            name: {str(layer): float(c) for layer, c in sorted(amounts.items(), key=_layer)}
            for name, amounts in sorted(setting.items())
        }
    )


class Records:
    """The records of one file; `by_key` has them by `key_of` their setting."""

    def __init__(self, path: str | PathLike[str], header: Mapping[str, Any]) -> None:
        """Take up the records that are there. A last line that was cut off is dropped.

        Raises:
            OSError: the file cannot be written.
            ValueError: it is of something else than `header`, or not such a file; it stays as it is
                then.
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
            if not lines and not first.startswith(cut):  # a whole file of somebody's, maybe
                self._require_same(self._parsed(1, cut), json.loads(first))
            file.truncate(sum(map(len, lines)))
            if not lines:
                file.write(first)

    def add(self, records: Iterable[tuple[Setting, Mapping[str, Any]]]) -> None:
        """Append those whose setting is not there yet, all in one write."""
        lines = []
        for setting, content in records:
            key = key_of(setting)
            if key not in self.by_key:
                line = _line({"steering": json.loads(key), **content})
                self.by_key[key] = json.loads(line)  # as it will be read
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

    def _require_same(self, there: Record, expected: Record) -> None:
        for name in sorted(there.keys() | expected.keys()):
            if there.get(name) != expected.get(name):
                raise ValueError(
                    f"{self.path} is of another sweep: its {name} is "
                    f"{json.dumps(there.get(name))}, and not {json.dumps(expected.get(name))}; "
                    "give another folder, or remove it"
                )


def _line(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _layer(item: tuple[Any, float]) -> int:
    return int(item[0])
