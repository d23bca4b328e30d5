"""Rows from JSONL files, one at a time, and from JSON arrays; pairs and texts in them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from os import PathLike
from typing import Any, BinaryIO

from faststeer.utils.text_files import open_utf8

_PAIRS = 'JSONL or a JSON array of {"positive": ..., "negative": ...}'
_TEXTS = 'JSONL or a JSON array of {"text": ...}'
_LARGEST_ARRAY = 1 << 27  # bytes: an array is parsed as a whole, into several times its size


class PairsFile:
    """Rows of ``{"positive": ..., "negative": ...}``, iterated as (positive, negative).

    The whole file is checked and counted first, and read again each time. A JSONL file is never
    held in memory; a JSON array is while it is read, and may have at most 128 MiB.

    Args:
        path: a JSONL file, or a JSON array.
        chat: a side may also be a list of chat messages, ``{"role": ..., "content": ...}``.

    Raises:
        OSError: the file cannot be opened; the message names it.
        ValueError: it is not UTF-8, has no rows, is too large an array, or a row is not such an
            object; the message names file, line and key.
    """

    def __init__(self, path: str | PathLike[str], chat: bool = False) -> None:
        self.path = path
        self.chat = chat
        self._count = sum(1 for _ in self)

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        for where, row in rows(self.path, _PAIRS):
            side_in = chat_side_in if self.chat else _plain_side_in
            yield side_in(where, row, "positive"), side_in(where, row, "negative")

    def __len__(self) -> int:
        return self._count


def read_texts(path: str | PathLike[str]) -> Iterator[str]:
    """Yield the texts of rows of ``{"text": ...}``. Raises the errors of `PairsFile`."""
    for where, row in rows(path, _TEXTS):
        yield _plain_side_in(where, row, "text")


def read_chats(path: str | PathLike[str]) -> Iterator[str | list[dict[str, str]]]:
    """Yield the same where a text may also be a list of chat messages, as in `PairsFile`."""
    for where, row in rows(path, _TEXTS):
        yield chat_side_in(where, row, "text")


def rows(path: str | PathLike[str], expected: str) -> Iterator[tuple[str, Any]]:
    """Yield the location and content of each row: a line of JSONL or an element of a JSON array.

    Args:
        path: a UTF-8 file, with or without a byte-order mark.
        expected: what the file should be, for errors.

    Raises:
        OSError: the file cannot be opened; the message names it.
        ValueError: it is not UTF-8, has no rows, is not JSON, or is too large an array; the message
            names the file, and the line of JSONL.
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


def chat_side_in(where: str, row: Any, key: str) -> str | list[dict[str, str]]:
    """Return the text or the chat messages under `key`. Raises ValueError for anything else."""
    side = row.get(key) if isinstance(row, dict) else None
    if isinstance(side, list) and side:
        for message in side:
            text_in(f"{where}, {key}", message, "role")
            text_in(f"{where}, {key}", message, "content")
        return side
    if not isinstance(side, str):
        raise ValueError(f"{where}: expected a text or a list of messages under {key!r}")
    return side


def _plain_side_in(where: str, row: Any, key: str) -> str:
    try:
        return text_in(where, row, key)
    except ValueError as error:
        if isinstance(row, dict) and isinstance(row.get(key), list):
            raise ValueError(
                f"{error}, and got a list; chat messages need a template: --chat, or chat=True and "
                "faststeer.data.InChat"
            ) from None
        raise


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
    size = os.fstat(file.fileno()).st_size
    if size > _LARGEST_ARRAY:
        raise ValueError(
            f"{path}: is a JSON array of {size:,} bytes, which is read as a whole; the limit is "
            f"{_LARGEST_ARRAY:,}; save it as JSON lines, one object per line, which have none"
        )
    try:
        elements = json.loads(file.read().decode())
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 ({error}); save the file as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON ({error})") from error
    for number, row in enumerate(elements, 1):
        yield f"{path}, row {number}", row
