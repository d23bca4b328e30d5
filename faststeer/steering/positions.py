"""Which tokens a vector acts on: `positions=`.

A position counts a sequence's own tokens from 0, prompt and generated alike, without padding. It
never counts from the beginning of a call: with a cache a call may hold any part of a sequence.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from faststeer.steering.token_positions import TokenPositions

Positions: TypeAlias = "str | range | slice | Tensor | Scope | Callable[[Tensor, Tensor], Tensor]"


class Scope(ABC):
    """A set of positions."""

    @abstractmethod
    def mask(self, tokens: TokenPositions) -> Tensor:
        """Return which tokens are in it, ``[B, T]`` bool."""


@dataclass(frozen=True)
class Between(Scope):
    """From `start` to before `stop`, each counted from a prompt's first token or from its end."""

    start: int | None
    stop: int | None
    start_from_end: bool = False
    stop_from_end: bool = False

    def mask(self, tokens: TokenPositions) -> Tensor:
        """Return which tokens are in it, ``[B, T]`` bool."""
        found = tokens.positions >= 0
        if self.start is not None:
            start = tokens.lengths + self.start if self.start_from_end else self.start
            found = found & (tokens.positions >= start)
        if self.stop is not None:
            stop = tokens.lengths + self.stop if self.stop_from_end else self.stop
            found = found & (tokens.positions < stop)
        return found


NAMED: dict[str, Scope | None] = {
    "all": None,
    "prompt": Between(None, 0, stop_from_end=True),
    "generated": Between(0, None, start_from_end=True),
    "from_last_prompt": Between(-1, None, start_from_end=True),
    "last": Between(-1, 0, start_from_end=True, stop_from_end=True),
}


@dataclass(frozen=True, eq=False)
class Chosen(Scope):
    """The positions that a function of positions ``[B, T]`` and lengths ``[B, 1]`` selects."""

    function: Callable[[Tensor, Tensor], Tensor]

    def mask(self, tokens: TokenPositions) -> Tensor:
        """Return which tokens are in it, ``[B, T]`` bool."""
        found = self.function(tokens.positions, tokens.lengths)
        if not isinstance(found, Tensor) or found.dtype != torch.bool:
            raise TypeError("the function given as positions= has to return a bool tensor")
        return found.expand(tokens.positions.shape) & (tokens.positions >= 0)


@dataclass(frozen=True, eq=False)
class Marked(Scope):
    """A mask ``[P]`` or ``[B, P]`` over the prompts as given, padding included; then nothing."""

    marks: Tensor

    def mask(self, tokens: TokenPositions) -> Tensor:
        """Return which tokens are in it, ``[B, T]`` bool."""
        batch, length = tokens.positions.shape[0], self.marks.shape[-1]
        marks = self.marks.to(tokens.columns.device).view(-1, length)
        if batch % len(marks):
            raise ValueError(f"positions= marks {len(marks)} sequences, but the batch has {batch}")
        marks = marks.repeat_interleave(batch // len(marks), 0)
        inside = tokens.columns < length
        return marks[:, tokens.columns.clamp(max=length - 1)] & inside


def _in_range(numbers: range) -> Between:
    """Return the scope of a range; -1 is the prompt's last token, so a stop of 0 is its end."""
    if not numbers:
        raise ValueError(
            f"positions={numbers} is empty; slice({numbers.start}, {numbers.stop}) may be meant"
        )
    from_end = numbers.start < 0
    if from_end and numbers.stop > 0:
        raise ValueError(
            f"positions={numbers} goes past the prompt's end, where 0 is the first token; "
            f"slice({numbers.start}, None) is all from there on"
        )
    return Between(numbers.start, numbers.stop, from_end, from_end)


def scope_of(positions: Positions, device: torch.device | None = None) -> Scope | None:
    """Return the scope that `positions=` stands for, None for all tokens; masks go to `device`.

    Raises:
        TypeError, ValueError: something else than `steer` documents.
    """
    if isinstance(positions, str):
        if positions not in NAMED:
            names = ", ".join(map(repr, NAMED))
            raise ValueError(f"positions={positions!r} is unknown; expected one of {names}")
        return NAMED[positions]
    if isinstance(positions, Scope):
        return positions
    if isinstance(positions, (range, slice)):
        if positions.step not in (None, 1):
            raise ValueError(f"positions={positions} has a step; give a function instead")
        if isinstance(positions, range):
            return _in_range(positions)
        start, stop = positions.start, positions.stop
        return Between(start, stop, (start or 0) < 0, (stop or 0) < 0)
    if isinstance(positions, Tensor):
        if positions.dtype != torch.bool or positions.dim() not in (1, 2) or not positions.numel():
            raise TypeError(
                f"positions= is a {positions.dtype} tensor of shape {tuple(positions.shape)}; "
                "expected bool, [P] or [B, P]"
            )
        return Marked(positions.to(device or positions.device, copy=True))
    if callable(positions):
        return Chosen(positions)
    raise TypeError(f"positions= is a {type(positions).__name__}; see faststeer.Patched.steer")
