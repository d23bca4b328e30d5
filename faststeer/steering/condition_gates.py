"""The decisions of conditions: per sequence of a batch, and per group of the index."""

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
    """Per-sequence condition results, updated in place so that graphs see them.

    `open` ``[B, K]`` bool, per group whether its condition is met, with room for more of both.
    """

    def __init__(self, device: torch.device) -> None:
        """Create gates that let every sequence through."""
        with torch.inference_mode(False):
            self._open(torch.ones(FEWEST_SEQUENCES, 1, dtype=torch.bool, device=device))
        self.conditions: list[Condition | None] = [None]
        self.sequences = 0  # of the last forward that decided
        self.read_by_graphs = False

    def passed(self, condition: Condition) -> Tensor | None:
        """Return the last decision, ``[B]`` bool; None where the condition is not active."""
        if condition not in self.conditions:
            return None
        return self.open[: self.sequences, self.conditions.index(condition)].clone()

    def set_conditions(self, conditions: Sequence[Condition | None]) -> None:
        """Set one condition per group; what was decided for a condition stays."""
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
        """Follow the batches to a device; what was decided on another is lost."""
        if device != self.open.device:
            with torch.inference_mode(False):
                self._open(torch.ones(self.open.shape, dtype=torch.bool, device=device))
            self.close()

    def make_room(self, sequences: int) -> None:
        """Grow where needed, at least twofold."""
        had, columns = self.open.shape
        if sequences <= had:
            return
        if self.read_by_graphs:
            warnings.warn(
                f"when= decides on {sequences} sequences, more than ever: compiled models will "
                "recompile, and captured CUDA graphs must be recaptured",
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
    def fresh_decisions(self, nested: bool) -> Iterator[None]:
        """Inside, decide on the new prompts of a `generate`.

        One that is nested in another, which had decided already, restores its decisions.
        """
        before = self.open.clone() if nested and self.sequences else None
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
        """Let no sequence pass any condition."""
        if not any(self.conditions):
            return
        self.sequences = 0
        for k, condition in enumerate(self.conditions):
            if condition is not None:
                self.open[:, k] = False

    def passed_by(self, sequences: int, graph: bool) -> Tensor:
        """Return what B sequences passed, ``[B, K]`` bool over the groups in use."""
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
        """Decide on ``[B, T, H]`` at the condition's site, where these are whole prompts.

        `direction`: the condition's, where `hidden` is.

        Raises:
            ValueError: parts of prompts.
        """
        prompt = (tokens.positions >= 0) & (tokens.positions < tokens.lengths)
        count = prompt.sum(1)
        whole = count == tokens.lengths[:, 0]
        complete = (whole | (count == 0)).all()
        requirement = (
            "when= has to see whole prompts: no chunked prefill, and no prompt behind a past"
        )
        if graph or hidden.shape[1] == 1:  # a decode step does not wait for the device
            torch._assert_async(complete, requirement)
        elif not complete:
            raise ValueError(requirement)
        found = condition.holds(hidden, prompt, direction).to(self.open.device)
        whole = whole.to(self.open.device)
        self.sequences = len(found)
        for k, other in enumerate(self.conditions):
            if other is condition:
                column = self.open[: len(found), k]
                column.copy_(torch.where(whole, found, column))

    def _open(self, table: Tensor) -> None:
        self.open = table
        torch._dynamo.mark_static_address(table)  # as DeviceTables
