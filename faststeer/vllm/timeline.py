"""A timeline: which terms of a request act on which of its tokens."""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from faststeer.vectors.position_range import PositionRange
from faststeer.vectors.sites import Site
from faststeer.vllm.terms import Term

NEVER = 2**62  # a position that no sequence reaches

Active = tuple[Term, ...]  # the terms that act on a token, in the order of the request


@dataclass(frozen=True)
class Timeline:
    """Spans of positions with the same active terms: span i is ``starts[i]`` to ``starts[i+1]``.

    The first starts at 0, the last does not end. A position counts a sequence's tokens from 0,
    prompt and generated alike.
    """

    starts: tuple[int, ...]
    active: tuple[Active, ...]

    @classmethod
    def of(cls, terms: Sequence[Term], prompt_length: int) -> Timeline:
        """Return the timeline of a request whose prompt has that many tokens."""
        ends = [range_ends(term.positions, prompt_length) for term in terms]
        bounds = {0}.union(*({start, stop} for start, stop in ends))
        starts: list[int] = []
        active: list[Active] = []
        for bound in sorted(bound for bound in bounds if bound is not None):
            own = tuple(
                term
                for term, (start, stop) in zip(terms, ends, strict=True)
                if start <= bound and (stop is None or bound < stop)
            )
            if not active or own != active[-1]:
                starts.append(bound)
                active.append(own)
        return cls(tuple(starts), tuple(active))

    def between(self, start: int, stop: int) -> list[tuple[int, int, Active]]:
        """Return the spans from `start` to before `stop`, cut at both."""
        found = []
        at = bisect_right(self.starts, start) - 1
        while start < stop:
            end = self.starts[at + 1] if at + 1 < len(self.starts) else stop
            found.append((start, min(end, stop), self.active[at]))
            start, at = end, at + 1
        return found

    def span_of(self, position: int) -> tuple[int, int]:
        """Return the start of the span that holds a position, and where it stops."""
        at = bisect_right(self.starts, position)
        return self.starts[at - 1], self.starts[at] if at < len(self.starts) else NEVER

    def most_entries(self) -> tuple[int, Site] | None:
        """Return the most entries that act on one token at one site, and where; None for none."""
        counts: dict[Site, int] = {}
        for active in self.active:
            own: dict[Site, int] = {}
            for term in active:
                for site, count in term.entries_at().items():
                    own[site] = own.get(site, 0) + count
            counts = {site: max(own.get(site, 0), counts.get(site, 0)) for site in own | counts}
        if not counts:
            return None
        site = max(counts, key=lambda own: counts[own])
        return counts[site], site

    def block_key(self, start: int, stop: int) -> str | None:
        """Return what tells a block of cached tokens from unsteered ones; None for no steering.

        Blocks with equal keys, tokens and blocks before them have equal contents, whichever scopes
        and prompts led to them.
        """
        spans = [
            [first - start, last - start, [term.to_wire()[:-1] for term in active]]
            for first, last, active in self.between(start, stop)
            if active
        ]
        if not spans:
            return None
        return hashlib.sha256(json.dumps(spans).encode()).hexdigest()[:32]


def range_ends(positions: PositionRange | None, prompt_length: int) -> tuple[int, int | None]:
    """Return the first position of a range, and where it stops; None for never."""
    if positions is None:
        return 0, None
    start, stop = positions.start or 0, positions.stop
    if positions.start_from_end:
        start += prompt_length
    if stop is not None:
        stop = max(0, stop + prompt_length if positions.stop_from_end else stop)
    return max(0, start), stop
