"""Which tokens of a request count in the statistics of a capture, and in which group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faststeer.vectors.position_range import PositionRange
from faststeer.vllm.timeline import NEVER, range_ends

CAPTURE_KEY = "faststeer_capture"  # in the arguments of a request
CHECKED_CAPTURE_KEY = "faststeer_captured"  # in the arguments that go to the engine

Spans = Sequence[tuple[int, int]]  # positions from the first to before the second, ascending


@dataclass(frozen=True)
class CaptureRequest:
    """What a request of `faststeer.vllm.capture` asks for.

    Requests that are sent over HTTP hold JSON values, so that none of them can ask for this.

    Args:
        serial: of this request, in its run: positions are counted once per serial.
        group: that its tokens belong to.
        positions: a range, None for all, or spans of positions.
        left_out: positions that do not count at some layers, by layer.
        norms: where the norms of its prompt's tokens are written; None for nowhere.
        prompt_only: whether tokens of the answer never count.
    """

    serial: int
    group: int
    positions: PositionRange | Spans | None = None
    left_out: Mapping[int, Sequence[int]] = field(default_factory=dict)
    norms: int | None = None
    prompt_only: bool = True

    def to_wire(self) -> list[Any]:
        """Return the request as plain lists, for another process."""
        where: Any = self.positions
        if isinstance(where, PositionRange):
            where = {"range": [where.start, where.stop, where.start_from_end, where.stop_from_end]}
        elif where is not None:
            where = {"spans": [list(span) for span in where]}
        left_out = [[layer, list(own)] for layer, own in self.left_out.items()]
        return [self.serial, self.group, where, left_out, self.norms, self.prompt_only]

    @classmethod
    def from_wire(cls, wire: Sequence[Any]) -> CaptureRequest:
        """Return the request that `to_wire` wrote."""
        serial, group, where, left_out, norms, prompt_only = wire
        positions: PositionRange | Spans | None = None
        if where is not None:
            spans, ends = where.get("spans"), where.get("range")
            positions = PositionRange(*ends) if spans is None else [(a, b) for a, b in spans]
        return cls(serial, group, positions, dict(left_out), norms, prompt_only)

    def spans(self, prompt_length: int) -> list[tuple[int, int]]:
        """Return the spans of positions that count."""
        found = self.positions
        if found is None or isinstance(found, PositionRange):
            start, stop = range_ends(found, prompt_length)
            found = [(start, NEVER if stop is None else stop)]
        last = prompt_length if self.prompt_only else NEVER
        return [(start, min(stop, last)) for start, stop in found if start < min(stop, last)]


class CapturedTokens:
    """The tokens of one request: each position counts once, however often it is computed."""

    def __init__(
        self, request: CaptureRequest, prompt_length: int, rows: Mapping[int, int]
    ) -> None:
        """Start with no token counted.

        Args:
            request: as it was asked for.
            prompt_length: in tokens.
            rows: the row of each layer in the tables of this process.
        """
        self.group = request.group
        self.norms = request.norms
        self.prompt_length = prompt_length
        self.spans = request.spans(prompt_length)
        self.left_out = {
            rows[layer]: np.array(own, dtype=np.int64)
            for layer, own in request.left_out.items()
            if layer in rows
        }
        self.counted = 0  # positions before this one have been computed before

    def mark(self, start: int, group: NDArray[np.int32], place: NDArray[np.int64]) -> None:
        """Mark the tokens of a step.

        Args:
            start: position of the first of them.
            group: ``[layers, n]``, filled with -1; overwritten where a token counts.
            place: ``[n]``, overwritten where a token's norm has a place.
        """
        stop = start + len(place)
        fresh = max(start, self.counted)
        for first, last in self.spans:
            begin, end = max(first, fresh), min(last, stop)
            if begin < end:
                group[:, begin - start : end - start] = self.group
        for row, positions in self.left_out.items():
            here = positions[(positions >= start) & (positions < stop)]
            group[row, here - start] = -1
        end = min(stop, self.prompt_length)
        if self.norms is not None and start < end:
            place[: end - start] = self.norms + np.arange(start, end)
        self.counted = max(self.counted, stop)
