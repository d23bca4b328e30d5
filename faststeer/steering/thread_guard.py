"""One thread at a time: what a forward looks up, its rows and its prompts, is kept in one place.

A second thread is refused, rather than served with a mixture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import get_ident
from time import monotonic, sleep
from typing import Any

from torch import nn

_call: Callable[..., Any] = nn.Module._call_impl
_TAIL = 0.2  # seconds: how long a generate may take to return after its last forward


class ThreadGuard:
    """Which thread is in a forward of a model, and which in its `generate`."""

    def __init__(self) -> None:
        """None is."""
        self._taken: dict[str, int] = {}  # setdefault is atomic, and takes 0.1 µs

    def begin(self) -> None:
        """A forward begins. Raises RuntimeError as `require` does."""
        me = get_ident()
        if self._taken.get("generate", me) != me:
            self.require()
        while self._taken.setdefault("forward", me) != me:
            self.require()

    def end(self) -> None:
        """The forward is over."""
        self._taken.pop("forward", None)

    @property
    def in_forward(self) -> bool:
        """Whether this thread is in one."""
        return self._taken.get("forward") == get_ident()

    @contextmanager
    def generating(self) -> Iterator[bool]:
        """A `generate`; yields whether it is within another. Raises RuntimeError as `require`."""
        me = get_ident()
        if self._taken.get("generate") == me:
            yield True
            return
        self.require()
        while self._taken.setdefault("generate", me) != me:
            self.require()
        try:
            yield False
        finally:
            del self._taken["generate"]

    def require(self) -> None:
        """Raise RuntimeError where another thread is in a forward, or between those of a generate.

        One that streams its text says the last word of it a moment before `generate` returns: that
        moment is waited for.
        """
        deadline = monotonic() + _TAIL
        while doing := self._elsewhere():
            if doing == "forward" or monotonic() > deadline:
                raise RuntimeError(
                    f"another thread is in a {doing} of this patched model, whose rows and "
                    "positions would get mixed up; let the threads take turns (join it, or share "
                    "a lock), or give each a model of its own: copy.deepcopy(model) before patch()"
                )
            sleep(0.001)

    def _elsewhere(self) -> str | None:
        """What another thread is doing."""
        me = get_ident()
        for what in ("forward", "generate"):
            if self._taken.get(what, me) != me:
                return what
        return None
