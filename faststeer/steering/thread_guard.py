"""Guard against concurrent use: forward state is per model, so a second thread is refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import get_ident
from time import monotonic, sleep

_TAIL = 0.2  # seconds: how long a generate may take to return after its last forward


class ThreadGuard:
    """Records which thread runs a forward of a model, and which its `generate`."""

    def __init__(self) -> None:
        """Start with no thread inside."""
        self._taken: dict[str, int] = {}  # setdefault is atomic, and takes 0.1 µs

    def begin(self) -> None:
        """Enter a forward. Raises RuntimeError as `require` does."""
        me = get_ident()
        if self._taken.get("generate", me) != me:
            self.require()
        while self._taken.setdefault("forward", me) != me:
            self.require()

    def end(self) -> None:
        """Leave the forward."""
        self._taken.pop("forward", None)

    @property
    def in_forward(self) -> bool:
        """Whether this thread is in a forward."""
        return self._taken.get("forward") == get_ident()

    @contextmanager
    def generating(self) -> Iterator[bool]:
        """Enclose a `generate`; yield whether it is nested. Raises RuntimeError as `require`."""
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

        A thread that streams its text yields the last word shortly before `generate` returns; this
        waits for that.
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
        """Return what another thread is in: "forward", "generate" or None."""
        me = get_ident()
        for what in ("forward", "generate"):
            if self._taken.get(what, me) != me:
                return what
        return None
