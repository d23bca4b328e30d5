"""Opening and decoding of files that a user names, with errors that are complete sentences."""

from __future__ import annotations

import codecs
from os import PathLike
from pathlib import Path
from typing import BinaryIO

_OTHER_ENCODINGS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)


def open_file(path: str | PathLike[str], expected: str) -> BinaryIO:
    """Open a file for reading.

    Args:
        path: the file.
        expected: what it should be, for the error: "a vector's file", for instance.

    Raises:
        FileNotFoundError, IsADirectoryError, PermissionError, OSError: it cannot be opened; the
            message is a sentence that names the path.
    """
    file = Path(path)
    if file.exists() and not file.is_file() and not file.is_dir():
        raise OSError(f"{file}: is a pipe or a device; expected {expected}")  # may never end
    try:
        return file.open("rb")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{file}: no such file; expected {expected}") from error
    except IsADirectoryError as error:
        raise IsADirectoryError(f"{file}: is a folder; expected {expected}") from error
    except PermissionError as error:
        raise PermissionError(f"{file}: permission to read it is denied") from error
    except OSError as error:  # a file where the path has a folder, a name that is too long
        raise type(error)(f"{file}: {error.strerror}; expected {expected}") from error


def open_utf8(path: str | PathLike[str], expected: str) -> BinaryIO:
    """Open a UTF-8 file for reading, after its byte-order mark if it has one.

    Raises:
        OSError: as `open_file`.
        ValueError: the file is UTF-16 or UTF-32.
    """
    file = open_file(path, expected)
    start = file.read(4)
    # In UTF-16 and UTF-32 of any language these bytes are not UTF-8, or contain a NUL.
    if start.startswith(_OTHER_ENCODINGS) or b"\0" in start:
        file.close()
        raise ValueError(f"{path}: is UTF-16 or UTF-32, or not text; save it as UTF-8")
    file.seek(len(codecs.BOM_UTF8) if start.startswith(codecs.BOM_UTF8) else 0)
    return file


def read_utf8(path: str | PathLike[str], expected: str) -> str:
    """Return a UTF-8 file's text without its byte-order mark; line ends become ``\\n``.

    Raises:
        OSError: as `open_file`.
        ValueError: the file is not UTF-8.
    """
    with open_utf8(path, expected) as file:
        content = file.read()
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 ({error}); save it as UTF-8") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")  # as in Python's text mode


def describe_os_error(error: OSError) -> str:
    """Return the message of an OSError as a sentence that begins with the path."""
    if error.filename is None or error.strerror is None:
        return str(error)
    return f"{error.filename}: {error.strerror[:1].lower()}{error.strerror[1:]}"
