"""Leases: they keep the vectors of requests that are checked and have not reached the engine."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any


class LeasedTerms(list[Any]):
    """The checked terms of a request; unlike a plain list's, its lifetime can be observed."""


class Leases:
    """The terms of all requests of this process that still exist.

    The engine knows which digests its unfinished requests use, but a request is checked here
    first, and other tasks run before it is sent. Until it is sent, something in this process holds
    its terms, so the digests of all terms that still exist cover it. Afterwards the engine has it:
    messages of one process arrive in the order in which they are sent.
    """

    def __init__(self) -> None:
        self._alive: weakref.WeakValueDictionary[int, LeasedTerms] = weakref.WeakValueDictionary()

    def follow(self, terms: Iterable[Any]) -> LeasedTerms:
        """Return the terms as a list whose digests are leased for as long as it exists."""
        own = terms if isinstance(terms, LeasedTerms) else LeasedTerms(terms)
        self._alive[id(own)] = own
        return own

    def digests(self) -> set[str]:
        """Return the digests that are leased."""
        alive = [found for ref in self._alive.valuerefs() if (found := ref()) is not None]
        return {term[0] for terms in alive for term in terms}
