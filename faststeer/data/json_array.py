"""The elements of a JSON array, one at a time: `json` alone would read the whole of it."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

_SPACE = re.compile(r"[ \t\r\n]*")
_CHUNK = 1 << 16
_LARGEST = 1 << 24  # characters of an element; broken JSON looks like one that does not end


def elements(file: BinaryIO) -> Iterator[Any]:
    """What a file that begins with ``[`` holds. Raises ValueError for what is not JSON."""
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
    """Text of which only a piece is held."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = io.TextIOWrapper(file, encoding="utf-8", newline="")
        self.decoder = json.JSONDecoder()
        self.text = ""
        self.place = 0

    def next(self) -> str:
        """The next character that is no space; none at the end."""
        while True:
            space = _SPACE.match(self.text, self.place)
            self.place = self.place if space is None else space.end()
            if self.place < len(self.text):
                return self.text[self.place]
            if not self._more(_CHUNK):
                return ""

    def take(self, character: str) -> None:
        """Pass over `character`. Raises ValueError for another."""
        found = self.next()
        if found != character:
            raise ValueError(f"expected {character!r}, found {found or 'the end of the file'!r}")
        self.place += 1

    def element(self) -> Any:
        """The next element, however many pieces it lies in."""
        self.next()
        size = _CHUNK
        while True:
            try:
                value, self.place = self.decoder.raw_decode(self.text, self.place)
            except json.JSONDecodeError:
                if len(self.text) - self.place > _LARGEST or not self._more(size):
                    raise
                size *= 2
            else:
                return value

    def _more(self, size: int) -> bool:
        read = self.file.read(size)
        self.text, self.place = self.text[self.place :] + read, 0
        return bool(read)
