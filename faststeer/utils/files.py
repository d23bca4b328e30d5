"""Atomic writes of files and folders, and the folder for cached files."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path


def write_whole(path: str | PathLike[str], content: bytes) -> None:
    """Write a file atomically: readers see the old file or the new one, never part of it.

    Raises:
        FileNotFoundError: the folder does not exist.
        IsADirectoryError: `path` is a folder.
        OSError: the folder cannot be written.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"{target}: the folder {target.parent} does not exist")
    if target.is_dir():
        raise IsADirectoryError(f"{target}: is a folder; expected the name of a file")
    try:
        handle, name = tempfile.mkstemp(
            dir=target.parent, prefix=f".{target.name}.", suffix=".part"
        )
    except OSError as error:  # its own message would name the temporary file
        raise type(error)(f"{target}: cannot be written ({error.strerror})") from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def require_new_or_empty(folder: Path) -> None:
    """Check that `folder` is new or empty, and that its parent exists.

    Raises:
        FileExistsError: it is a file, or a folder with entries.
        FileNotFoundError: its parent does not exist.
    """
    if not folder.parent.is_dir():
        raise FileNotFoundError(f"{folder}: the folder {folder.parent} does not exist")
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists and is not an empty folder; choose another")


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Write a folder completely or not at all.

    Yields a temporary folder beside it, which is renamed on exit, or removed after an error.

    Raises:
        FileExistsError, FileNotFoundError: as `require_new_or_empty`.
    """
    folder = folder.resolve()
    require_new_or_empty(folder)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        part = temporary / folder.name  # mkdtemp's own folder is closed to other users
        part.mkdir()
        yield part
        part.rename(folder)  # replaces an empty folder
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _umask() -> int:
    """Return the process's umask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def cache_folder() -> Path:
    """Return the folder for cached files: FASTSTEER_CACHE, or one in the user's cache folder."""
    own = os.environ.get("FASTSTEER_CACHE")
    if own:
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "faststeer"
