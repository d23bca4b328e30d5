"""Which tokens a vector acts on: `positions=`.

A position counts a sequence's own tokens from 0, prompt and generated alike, without padding. It
never counts from the beginning of a call: with a cache a call may hold any part of a sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from faststeer.steering.scopes import InRange, Scope, Union
from faststeer.steering.token_positions import TokenPositions
from faststeer.vectors.position_range import PositionRange, position_range

Positions: TypeAlias = (
    "str | range | slice | Sequence[int] | Tensor | Scope | Callable[[Tensor, Tensor], Tensor]"
)


class Listed(Union):
    """The positions of a list of numbers."""

    def __str__(self) -> str:
        """Return the positions as `repr` of a handle shows them."""
        return ", ".join(map(str, self.scopes))


@dataclass(frozen=True, eq=False)
class Chosen(Scope):
    """The positions that a function of positions ``[B, T]`` and lengths ``[B, 1]`` selects."""

    function: Callable[[Tensor, Tensor], Tensor]

    def __str__(self) -> str:
        """Return the function's name."""
        return f"those of {getattr(self.function, '__name__', 'a function')}"

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

    def __str__(self) -> str:
        """Return the mask's shape."""
        return f"under a mask {list(self.marks.shape)}"

    def mask(self, tokens: TokenPositions) -> Tensor:
        """Return which tokens are in it, ``[B, T]`` bool."""
        batch, length = tokens.positions.shape[0], self.marks.shape[-1]
        marks = self.marks.to(tokens.columns.device).view(-1, length)
        if batch % len(marks):
            raise ValueError(f"positions= marks {len(marks)} sequences, but the batch has {batch}")
        marks = marks.repeat_interleave(batch // len(marks), 0)
        inside = tokens.columns < length
        return marks[:, tokens.columns.clamp(max=length - 1)] & inside


def scope_of(positions: Positions, device: torch.device | None = None) -> Scope | None:
    """Return the scope that `positions=` stands for, None for all tokens; masks go to `device`.

    Raises:
        TypeError, ValueError: something else than `steer` documents.
    """
    if isinstance(positions, Scope):
        return positions
    if isinstance(positions, (str, range, slice)):
        return scope_of_range(position_range(positions))
    if isinstance(positions, (list, tuple)):
        return _scope_of_numbers(positions)
    if isinstance(positions, Tensor):
        if positions.dtype != torch.bool or positions.dim() not in (1, 2) or not positions.numel():
            raise TypeError(
                f"positions= is a {positions.dtype} tensor of shape {tuple(positions.shape)}; "
                "expected bool, [P] or [B, P]; for position numbers give a list, such as [0, 1]"
            )
        return Marked(positions.to(device or positions.device, copy=True))
    if callable(positions):
        return Chosen(positions)
    raise TypeError(
        f"positions= is a {type(positions).__name__}; expected a name, a range, a slice, a list of "
        "numbers such as [0, 1], a function or a bool tensor (see faststeer.Patched.steer)"
    )


def scope_of_range(chosen: PositionRange | None) -> Scope | None:
    """Return the scope of a range of positions; None is all tokens."""
    return None if chosen is None else InRange(chosen)


def _scope_of_numbers(numbers: Sequence[int]) -> Scope:
    """Return the scope of single positions, as runs, which are compared with fewer operations."""
    if not numbers:
        raise ValueError("positions= is an empty list; expected position numbers, such as [0, 1]")
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, int):
            raise TypeError(
                f"positions= holds a {type(number).__name__}; expected position numbers, such as "
                "[0, 1] or [-1], or a bool tensor as a mask"
            )
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][-1] + 1 and number != 0:  # -1 is the prompt's last token
            runs[-1].append(number)
        else:
            runs.append([number])
    ranges = [position_range(range(run[0], run[-1] + 1)) for run in runs]
    found = tuple(InRange(own) for own in ranges if own is not None)
    return found[0] if len(found) == 1 else Listed(found)
