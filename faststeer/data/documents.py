"""Documents from a file or a folder, one at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from fnmatch import fnmatch
from os import PathLike
from pathlib import Path

from faststeer.data.jsonl import read_texts
from faststeer.utils.text_files import read_utf8


class Documents:
    """Texts of a file or folder, in an order that does not depend on the machine.

    Args:
        path: a ``.jsonl`` or ``.json`` file: the ``text`` of each row. Any other file: its whole
            text. A folder: all files in it and in its subfolders, ordered by name. A name with
            wildcards, such as ``src/*.py``: the files that match in that folder and its
            subfolders. In folders, empty files such as many ``__init__.py`` are skipped.

    Files are UTF-8, with or without a byte-order mark.

    Raises:
        FileNotFoundError: the path does not exist, no file matches, or all of them are empty.
        PermissionError: a file cannot be read.
        ValueError: the one file that is named is empty; a file is not UTF-8; a row has no text.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = Path(path)
        wild = not self.path.exists() and any(letter in self.path.name for letter in "*?[")
        self._folder = self.path.parent if wild else self.path
        self._pattern = self.path.name if wild else "*"
        if not self._folder.exists():
            raise FileNotFoundError(f"{self.path}: no such file or folder")
        if next(self._files(), None) is None:
            what = f"files of such names in {self._folder}" if wild else "files in this folder"
            raise FileNotFoundError(f"{self.path}: no {what}, or all of them are empty")
        if self._folder.is_file() and not self._folder.stat().st_size:
            raise ValueError(f"{self.path}: is empty; expected text")

    def __iter__(self) -> Iterator[str]:
        for file in self._files():
            if file.suffix.lower() in (".jsonl", ".json"):
                yield from read_texts(file)
            else:
                yield _content(file)

    def _files(self) -> Iterator[Path]:
        if self._folder.is_file():
            yield self._folder
            return
        for folder, folders, names in os.walk(self._folder):
            folders.sort()  # in place: os.walk follows this list
            for name in sorted(names):
                file = Path(folder, name)
                if not fnmatch(name, self._pattern) or not file.is_file():  # a pipe, a broken link
                    continue
                if file.stat().st_size:
                    yield file


def _content(file: Path) -> str:
    try:
        return read_utf8(file, "a text")
    except ValueError as error:
        raise ValueError(
            f"{error}, or choose files by name, such as {file.parent}/*.txt"
        ) from error
