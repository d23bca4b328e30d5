"""Of many pairs the first: enough to tell how well a vector does, in a time that one waits for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from itertools import islice

Pair = tuple[str, str]


class FirstPairs:
    """The first `most` of `pairs`, which can be read again and again."""

    def __init__(self, pairs: Iterable[Pair], most: int) -> None:
        """Raises TypeError for an iterator, and ValueError where no pair may be read."""
        if iter(pairs) is pairs:
            raise TypeError("pairs is an iterator; they are read several times: give a list")
        if most < 1:
            raise ValueError(f"most_pairs is {most}; expected at least 1")
        self.pairs = pairs
        self.most = most
        self.template = getattr(pairs, "template", None)  # of faststeer.data.InChat

    def __iter__(self) -> Iterator[Pair]:
        """From the first on, each time."""
        return islice(self.pairs, self.most)

    def left_out(self) -> str | None:
        """How many there are beyond, in words; None if none."""
        if isinstance(self.pairs, Sized):
            count = max(0, len(self.pairs) - self.most)
            beyond = f"{count} pairs" if count else ""
        else:
            more = next(islice(self.pairs, self.most, None), None)
            beyond = "all pairs" if more is not None else ""
        if not beyond:
            return None
        return f"{beyond} beyond the first {self.most}: most_pairs reads more"
