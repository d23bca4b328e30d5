"""Checks of a GGUF file's header before the package `gguf` reads it.

The package (0.19) takes 700 bytes and 30 microseconds per array element, so a file of a few
megabytes can take gigabytes and minutes. A control vector has a handful of short keys.
Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

ARCHITECTURE = "controlvector"
VERSIONS = (2, 3)

_MAX_KEYS = 1000
_MAX_ELEMENTS = 1000  # of one array
_MAX_TENSORS = 10_000
_MAX_BYTES = 1 << 24  # of all keys

_STRING, _ARRAY = 8, 9
# uint8, int8, uint16, int16, uint32, int32, float32, bool, uint64, int64, float64
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}


def check_header(file: Path) -> None:
    """Raise ValueError unless `file` starts as a control vector with few and short keys."""
    with file.open("rb") as opened:
        header = _Header(opened.read(_MAX_BYTES))
    try:
        header.check()
    except struct.error as error:
        raise ValueError("the GGUF header does not end; the file may be truncated") from error


class _Header:
    """The keys of a GGUF header, read from the start of its bytes."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.offset = 0

    def check(self) -> None:
        magic, version, tensors, keys = self._take("<4sIQQ")
        if magic != b"GGUF":
            raise ValueError("not a GGUF file")
        if version not in VERSIONS:
            raise ValueError(f"GGUF version {version}; expected one of {VERSIONS}, little-endian")
        if tensors > _MAX_TENSORS or keys > _MAX_KEYS:
            raise ValueError(
                f"{tensors:,} tensors and {keys:,} keys; a control vector has at most "
                f"{_MAX_TENSORS:,} and {_MAX_KEYS:,}"
            )
        architecture: str | None = None
        for _ in range(keys):
            key = self._string()
            value = self._value(key)
            if key == "general.architecture":
                architecture = value
                self._require(architecture)  # early: a model's file has huge arrays after it
        self._require(architecture)

    def _require(self, architecture: str | None) -> None:
        if architecture != ARCHITECTURE:
            raise ValueError(
                f"a GGUF file, but no control vector: general.architecture is "
                f"{architecture!r}, expected {ARCHITECTURE!r}"
            )

    def _value(self, key: str) -> str | None:
        """Skip a value; return it if it is a string."""
        (kind,) = self._take("<I")
        if kind == _STRING:
            return self._string()
        if kind != _ARRAY:
            self._skip(1, kind, key)
            return None
        kind, length = self._take("<IQ")
        if length > _MAX_ELEMENTS:
            raise ValueError(
                f"key {key!r} has {length:,} elements; a control vector's has at most "
                f"{_MAX_ELEMENTS:,}"
            )
        if kind == _STRING:
            for _ in range(length):
                self._string()
        else:
            self._skip(length, kind, key)
        return None

    def _skip(self, count: int, kind: int, key: str) -> None:
        if kind not in _SIZES:
            raise ValueError(f"key {key!r} has a value of unknown kind {kind}")
        self._take(f"<{count * _SIZES[kind]}x")

    def _string(self) -> str:
        (length,) = self._take("<Q")
        if length > len(self.content) - self.offset:
            raise struct.error
        (text,) = self._take(f"<{length}s")
        return str(text, "utf-8", "replace")

    def _take(self, form: str) -> tuple[Any, ...]:
        found = struct.unpack_from(form, self.content, self.offset)
        self.offset += struct.calcsize(form)
        return found
