"""A folder of cached files, of which the least recently used are removed above a total size."""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress
from pathlib import Path

from faststeer.utils.files import write_whole

_NAME = re.compile(r"[0-9a-f]{64}\.safetensors")
_UNFINISHED = re.compile(r"\.[0-9a-f]{64}\.safetensors\..*\.part")
_FOREGO = 3600.0  # seconds after which an unfinished file belongs to a process that was killed
_SHARE = 1 / 32  # of the limit: after writing as much, other processes' files are counted again


class LimitedFolder:
    """Files named by a SHA-256, safe to use from several processes at once.

    The time of last use is a file's time of modification. Files that this object read or wrote are
    never removed by it: where they alone would exceed the limit, further ones are not kept, since
    a run that removed its own beginning would find nothing when it is repeated.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        """Create the folder where it is missing. `limit`: bytes of all files together.

        Raises:
            OSError: it cannot be created.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise type(error)(f"{folder}: cannot be created ({error.strerror})") from error
        self.folder = folder
        self.limit = limit
        self._used: dict[str, int] = {}  # bytes by name, of files that this object read or wrote
        self._used_bytes = 0
        self._written = limit  # bytes since the files were counted; as many: not counted yet
        self._total = 0

    def find(self, name: str) -> Path | None:
        """Return the path of a file and note that it is used; None where there is none."""
        path = self.folder / name
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            return None
        with suppress(FileNotFoundError, PermissionError):  # by another process; a shared folder
            os.utime(path)
        self._use(name, size)
        return path

    def write(self, name: str, content: bytes) -> bool:
        """Write a file atomically, after removing others above the limit.

        Returns:
            False where the files in use would exceed the limit: nothing is written then.

        Raises:
            OSError: it cannot be written.
        """
        size = len(content)
        if self._used_bytes - self._used.get(name, 0) + size > self.limit:
            return False
        self._use(name, size)
        if self._total + size > self.limit or self._written >= _SHARE * self.limit:
            self._make_room(size)
        write_whole(self.folder / name, content)
        self._total += size
        self._written += size
        return True

    def _use(self, name: str, size: int) -> None:
        self._used_bytes += size - self._used.get(name, 0)
        self._used[name] = size

    def _make_room(self, size: int) -> None:
        """Count all files; where `size` more are too many, remove the least recently used."""
        files = []
        now = time.time()
        for entry in os.scandir(self.folder):
            with suppress(FileNotFoundError):  # another process was first
                facts = entry.stat(follow_symlinks=False)
                if _NAME.fullmatch(entry.name):
                    files.append((facts.st_mtime_ns, facts.st_size, entry.name))
                elif _UNFINISHED.fullmatch(entry.name) and now - facts.st_mtime > _FOREGO:
                    os.unlink(entry.path)
        self._total = sum(own for _, own, _ in files)
        self._written = 0
        most = self.limit
        if self._total + size > most:
            most -= int(_SHARE * most)  # so that the next few need no room to be made
        for _, own, name in sorted(files):
            if self._total + size <= most:
                return
            if name not in self._used:
                (self.folder / name).unlink(missing_ok=True)
                self._total -= own
