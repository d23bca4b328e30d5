"""Pairs and texts from JSONL files, a line at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from os import PathLike
from pathlib import Path


class PairsFile:
    """Lines of ``{"positive": ..., "negative": ...}``, iterated as (positive, negative).

    The whole file is checked and counted first, and read anew each time: it is never held.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is no such object; the message names file, line and key.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = path
        self._count = sum(1 for _ in self)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        for record in _records(self.path, ("positive", "negative")):
            yield record["positive"], record["negative"]

    def __len__(self) -> int:
        return self._count


def read_texts(path: str | PathLike[str]) -> Iterator[str]:
    """Texts from lines of ``{"text": ...}``. Raises as `PairsFile` does."""
    for record in _records(path, ("text",)):
        yield record["text"]


def _records(path: str | PathLike[str], keys: tuple[str, ...]) -> Iterator[dict[str, str]]:
    with Path(path).open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            try:
                record = json.loads(line.decode())
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{where}: not JSON ({error})") from error
            for key in keys:
                if not isinstance(record, dict) or not isinstance(record.get(key), str):
                    raise ValueError(f"{where}: expected an object with a text under {key!r}")
            yield record
