"""The entries of every token of a step, in tensors that graphs read at fixed addresses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from faststeer.vllm.lines import NO_LINE, Lines, gather
from faststeer.vllm.timeline import NEVER, Active, Timeline

Numbers = NDArray[np.integer]


@dataclass
class Step:
    """The tokens of a step: request i has `scheduled[i]` of them, after `computed[i]` others."""

    request_ids: Sequence[str]
    scheduled: Numbers
    computed: Numbers


class Batch:
    """What each token of the batch is steered with: `index` ``[sites, N, K]``, `coefficient`.

    It is written only where something has changed: in a run of decode steps of the same requests
    nothing has, however many settings they have.
    """

    def __init__(self, lines: Lines, most_tokens: int) -> None:
        """Create the tensors. `most_tokens`: N, the most tokens of a step, padding included."""
        self.lines = lines
        self.writes = 0
        sites, _, columns = lines.index.shape
        device = lines.index.device
        with torch.inference_mode(False):
            shape = (sites, most_tokens, columns)
            self.index = torch.full(shape, -1, dtype=torch.int32, device=device)
            self.coefficient = torch.zeros(shape, device=device)
        self.steered = False  # whether the last step had steered tokens
        self._written = 0  # tokens that may have entries
        self._last: tuple[list[str], Numbers] = ([], np.zeros(0, dtype=np.int64))
        # Per request, the span of positions to which all its tokens of that step belonged.
        self._since = self._until = np.zeros(0, dtype=np.int64)

    def write(self, step: Step, timelines: Mapping[str, Timeline], changed: bool) -> None:
        """Write the entries of a step.

        Args:
            step: its tokens.
            timelines: of the requests that have terms, by id.
            changed: whether requests have come or gone since the last step, so that one of the same
                id may be another.
        """
        if not changed and self._stays(step):
            return
        spans: list[tuple[int, Active]] = []  # how many tokens, and what acts on them
        since = np.zeros(len(step.request_ids), dtype=np.int64)
        until = np.full(len(step.request_ids), NEVER, dtype=np.int64)
        for at, request in enumerate(step.request_ids):
            count, start = int(step.scheduled[at]), int(step.computed[at])
            found = timelines.get(request)
            if found is None:
                spans.append((count, ()))
                continue
            cut = found.between(start, start + count)
            spans += [(last - first, active) for first, last, active in cut]
            since[at], until[at] = found.span_of(start)
            if len(cut) > 1:  # of several spans, so that the next step's tokens differ
                until[at] = start
        self._last = list(step.request_ids), step.scheduled.copy()
        self._since, self._until = since, until
        self._write(spans)

    def clear(self) -> None:
        """Let no token be steered, as in a dummy run."""
        self._last = ([], np.zeros(0, dtype=np.int64))
        self._write([])

    def _stays(self, step: Step) -> bool:
        request_ids, scheduled = self._last
        return (
            request_ids == list(step.request_ids)
            and np.array_equal(scheduled, step.scheduled)
            and bool((step.computed >= self._since).all())  # rejected drafts go back
            and bool((step.computed + step.scheduled <= self._until).all())
        )

    def _write(self, spans: Sequence[tuple[int, Active]]) -> None:
        steered = any(active for _, active in spans)
        if not steered and not self.steered:
            return
        found = self.lines.place(active for _, active in spans)
        counts = [count for count, _ in spans]
        line = np.repeat([found[active] for _, active in spans], counts).astype(np.int64)
        padded = np.full(max(len(line), self._written), NO_LINE, dtype=np.int64)
        padded[: len(line)] = line
        token_line = torch.from_numpy(padded).to(self.index.device, non_blocking=True)
        with torch.inference_mode(False), torch.no_grad():
            gather(self.lines.index, token_line, self.index)
            gather(self.lines.coefficient, token_line, self.coefficient)
        self._written, self.steered = len(line), steered
        self.writes += 1
