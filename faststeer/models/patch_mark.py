"""The mark of a patched decoder, and what code below `patching` can do through it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from typing import Any

MARK = "_faststeer"  # the attribute under which a patched module keeps its state


class PatchMark(ABC):
    """What a patched decoder holds under `MARK` once it has a handle: `faststeer.Patched`."""

    @abstractmethod
    def off(self) -> AbstractContextManager[Any]:
        """Steer nothing inside the ``with`` block."""
