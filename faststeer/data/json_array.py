"""A streaming parser for JSON arrays: `json` alone would hold the whole file in memory."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

_SPACE = re.compile(r"[ \t\r\n]*")
_CHUNK = 1 << 16
_MAX_ELEMENT = 1 << 24  # characters of an element; invalid JSON looks like an unfinished one


def elements(file: BinaryIO) -> Iterator[Any]:
    """Yield the elements of a file that starts with ``[``. Raises ValueError for invalid JSON."""
    array = _Array(file)
    array.take("[")
    if array.next() == "]":
        array.take("]")
    else:
        yield array.element()
        while array.next() == ",":
            array.take(",")
            yield array.element()
        array.take("]")
    if array.next():
        raise ValueError("something follows the array")


class _Array:
    """The text of a JSON array, of which only a part is in memory."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = io.TextIOWrapper(file, encoding="utf-8", newline="")
        self.decoder = json.JSONDecoder()
        self.text = ""
        self.offset = 0

    def next(self) -> str:
        """Return the next character that is not white space; an empty string at the end."""
        while True:
            space = _SPACE.match(self.text, self.offset)
            self.offset = self.offset if space is None else space.end()
            if self.offset < len(self.text):
                return self.text[self.offset]
            if not self._read(_CHUNK):
                return ""

    def take(self, character: str) -> None:
        """Skip `character`. Raises ValueError for another."""
        found = self.next()
        if found != character:
            raise ValueError(f"expected {character!r}, found {found or 'the end of the file'!r}")
        self.offset += 1

    def element(self) -> Any:
        """Return the next element, reading as many chunks as it needs."""
        self.next()
        size = _CHUNK
        while True:
            try:
                value, self.offset = self.decoder.raw_decode(self.text, self.offset)
            except json.JSONDecodeError:
                if len(self.text) - self.offset > _MAX_ELEMENT or not self._read(size):
                    raise
                size *= 2
            else:
                return value

    def _read(self, size: int) -> bool:
        read = self.file.read(size)
        self.text, self.offset = self.text[self.offset :] + read, 0
        return bool(read)
