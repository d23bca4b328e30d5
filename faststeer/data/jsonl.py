"""Rows of JSONL files and JSON arrays, one at a time, and the pairs and texts in them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from os import PathLike
from typing import Any, BinaryIO

from faststeer.data.json_array import elements
from faststeer.utils.text_files import open_utf8

_PAIRS = 'JSONL or a JSON array of {"positive": ..., "negative": ...}'
_TEXTS = 'JSONL or a JSON array of {"text": ...}'


class PairsFile:
    """Rows of ``{"positive": ..., "negative": ...}``, iterated as (positive, negative).

    The whole file is checked and counted first, and read again each time: it is never held in
    memory.

    Args:
        path: a JSONL file, or a JSON array.
        chat: a side may also be a list of chat messages, ``{"role": ..., "content": ...}``.

    Raises:
        OSError: the file cannot be opened; the message names it.
        ValueError: it is not UTF-8, has no rows, or a row is not such an object; the message names
            file, line and key.
    """

    def __init__(self, path: str | PathLike[str], chat: bool = False) -> None:
        self.path = path
        self.chat = chat
        self._count = sum(1 for _ in self)

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        for where, row in rows(self.path, _PAIRS):
            if self.chat:
                yield _side(where, row, "positive"), _side(where, row, "negative")
            else:
                yield text_in(where, row, "positive"), text_in(where, row, "negative")

    def __len__(self) -> int:
        return self._count


def read_texts(path: str | PathLike[str]) -> Iterator[str]:
    """Yield the texts of rows of ``{"text": ...}``. Raises the errors of `PairsFile`."""
    for where, row in rows(path, _TEXTS):
        yield text_in(where, row, "text")


def rows(path: str | PathLike[str], expected: str) -> Iterator[tuple[str, Any]]:
    """Yield the location and content of each row: a line of JSONL or an element of a JSON array.

    Args:
        path: a UTF-8 file, with or without a byte-order mark.
        expected: what the file should be, for errors.

    Raises:
        OSError: the file cannot be opened; the message names it.
        ValueError: it is not UTF-8, has no rows, or something is not JSON; the message names file
            and line, or row.
    """
    found = False
    with open_utf8(path, expected) as file:
        first = file.tell()
        start = file.read(1)
        while start.isspace():
            start = file.read(1)
        file.seek(first)
        for found_row in _elements(path, file) if start == b"[" else _lines(path, file):
            found = True
            yield found_row
    if not found:
        raise ValueError(f"{path}: has no rows; expected {expected}")


def text_in(where: str, row: Any, key: str) -> str:
    """Return the text under `key`. Raises ValueError where there is none."""
    if not isinstance(row, dict) or not isinstance(row.get(key), str):
        raise ValueError(f"{where}: expected an object with a text under {key!r}")
    text: str = row[key]
    return text


def _side(where: str, row: Any, key: str) -> str | list[dict[str, str]]:
    side = row.get(key) if isinstance(row, dict) else None
    if isinstance(side, list) and side:
        for message in side:
            text_in(f"{where}, {key}", message, "role")
            text_in(f"{where}, {key}", message, "content")
        return side
    if not isinstance(side, str):
        raise ValueError(f"{where}: expected a text or a list of messages under {key!r}")
    return side


def _lines(path: str | PathLike[str], file: BinaryIO) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line.decode())
        except UnicodeDecodeError as error:
            raise ValueError(f"{where}: not UTF-8 ({error}); save the file as UTF-8") from error
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{where}: not JSON ({error})") from error
        yield where, row


def _elements(path: str | PathLike[str], file: BinaryIO) -> Iterator[tuple[str, Any]]:
    number = 0
    try:
        for number, row in enumerate(elements(file), 1):
            yield f"{path}, row {number}", row
    except UnicodeDecodeError as error:  # raised while decoding ahead of the row that is parsed
        raise ValueError(
            f"{path}, at or after row {number + 1}: not UTF-8 ({error}); save the file as UTF-8"
        ) from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}, row {number + 1}: not JSON ({error})") from error
