"""What conditions have decided: for each sequence of a batch, and each column of the tables."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from faststeer.steering.conditions import Condition
from faststeer.steering.token_positions import TokenPositions
from faststeer.utils.warnings import FaststeerWarning

FEWEST_SEQUENCES = 1024  # a byte for each and each column


class ConditionGates:
    """Which sequences each column's condition lets through; written in place, for graphs.

    `open` ``[B, K]`` bool, with room for more of both.
    """

    def __init__(self, device: torch.device) -> None:
        """All columns are open."""
        with torch.inference_mode(False):
            self._open(torch.ones(FEWEST_SEQUENCES, 1, dtype=torch.bool, device=device))
        self.conditions: list[Condition | None] = [None]
        self.sequences = 0  # of the last forward that decided
        self.read_by_graphs = False

    def passed(self, condition: Condition) -> Tensor | None:
        """``[B]`` bool of the last decision; None where the condition is not at work."""
        if condition not in self.conditions:
            return None
        return self.open[: self.sequences, self.conditions.index(condition)].clone()

    def become(self, conditions: Sequence[Condition | None]) -> None:
        """One for each column; what was decided for a condition stays."""
        wanted = max(len(conditions), self.open.shape[1])
        with torch.inference_mode(False):
            now = torch.ones(self.open.shape[0], wanted, dtype=torch.bool, device=self.open.device)
            for k, condition in enumerate(conditions):
                if condition is not None:
                    known = condition in self.conditions
                    at = self.conditions.index(condition) if known else 0
                    now[:, k] = self.open[:, at] if known else False
            if wanted > self.open.shape[1]:
                self._open(now)
            else:
                self.open.copy_(now)
        self.conditions = list(conditions)

    def move(self, device: torch.device) -> None:
        """Be where batches are; what was decided elsewhere is forgotten."""
        if device != self.open.device:
            with torch.inference_mode(False):
                self._open(torch.ones(self.open.shape, dtype=torch.bool, device=device))
            self.close()

    def make_room(self, sequences: int) -> None:
        """Grow, at least twofold."""
        had, columns = self.open.shape
        if sequences <= had:
            return
        if self.read_by_graphs:
            warnings.warn(
                f"when= decides on {sequences} sequences, more than ever: compiled models compile "
                "anew, and captured CUDA graphs have to be captured again",
                FaststeerWarning,
                stacklevel=2,
            )
        with torch.inference_mode(False):
            room = self.open.new_ones(max(sequences, 2 * had), columns)
            room[:had] = self.open
            self._open(room)

    def require_room(self, sequences: int) -> None:
        """Raise ValueError where a graph, which cannot grow, needs more."""
        if sequences > self.open.shape[0]:
            raise ValueError(
                f"when= has room for {self.open.shape[0]} sequences; call "
                f"reserve(rows={sequences}) before compiling or capturing"
            )

    @contextmanager
    def deciding_anew(self, within: bool) -> Iterator[None]:
        """For a `generate`, whose prompts nobody has looked at. One that began within another, when
        that had decided already, leaves it its decisions.
        """
        before = self.open.clone() if within and self.sequences else None
        conditions, sequences = self.conditions, self.sequences
        self.close()
        try:
            yield
        finally:
            if before is not None:
                self.sequences = sequences
                for k, condition in enumerate(self.conditions):
                    if condition is not None and condition in conditions:
                        self.open[: len(before), k] = before[:, conditions.index(condition)]

    def close(self) -> None:
        """No sequence has passed any condition."""
        if not any(self.conditions):
            return
        self.sequences = 0
        for k, condition in enumerate(self.conditions):
            if condition is not None:
                self.open[:, k] = False

    def of(self, sequences: int, graph: bool) -> Tensor:
        """``[B, K]`` of the columns that are in use."""
        if graph:
            self.read_by_graphs = True
        return self.open[:sequences, : len(self.conditions)]

    def decide(
        self,
        condition: Condition,
        direction: Tensor,
        hidden: Tensor,
        tokens: TokenPositions,
        graph: bool,
    ) -> None:
        """Look at ``[B, T, H]`` at the condition's site, where these are whole prompts.

        `direction`: the condition's, where `hidden` is.

        Raises:
            ValueError: parts of prompts.
        """
        prompt = (tokens.positions >= 0) & (tokens.positions < tokens.lengths)
        count = prompt.sum(1)
        whole = count == tokens.lengths[:, 0]
        complete = (whole | (count == 0)).all()
        said = "when= has to see whole prompts: no chunked prefill, and no prompt behind a past"
        if graph or hidden.shape[1] == 1:  # a decode step does not wait for the device
            torch._assert_async(complete, said)
        elif not complete:
            raise ValueError(said)
        found = condition.holds(hidden, prompt, direction).to(self.open.device)
        whole = whole.to(self.open.device)
        self.sequences = len(found)
        for k, other in enumerate(self.conditions):
            if other is condition:
                column = self.open[: len(found), k]
                column.copy_(torch.where(whole, found, column))

    def _open(self, table: Tensor) -> None:
        self.open = table
        torch._dynamo.mark_static_address(table)  # as the tables of a Bank
