"""Define the scopes that `faststeer check` probes, and the likeliest mistakes in applying them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from faststeer.diagnostics.bench.reference_runs import TokenPredicate
from faststeer.diagnostics.bench.verdicts import UNSTEERED
from faststeer.steering.positions import Positions
from faststeer.steering.written import after

TOKENS = 11  # of each prompt
MARKER = slice(3, 5)  # its place in each prompt

PositionPredicate = Callable[[int, int], bool]  # position, tokens of the prompt -> is it steered?


@dataclass(frozen=True)
class ProbedScope:
    """Positions as `Patched.steer` takes them, and the same positions as a plain function."""

    positions: Positions
    is_steered: PositionPredicate


def probed_scopes(ids: Tensor) -> dict[str, ProbedScope]:
    """Return a scope of every kind for prompts ``[B, T]`` that hold one marker at `MARKER`."""
    span = range(2, TOKENS + 2)
    marker = after(ids[0, MARKER].tolist())
    return {
        "all": ProbedScope("all", lambda p, n: True),
        "prompt": ProbedScope("prompt", lambda p, n: p < n),
        "generated": ProbedScope("generated", lambda p, n: p >= n),
        "from_last_prompt": ProbedScope("from_last_prompt", lambda p, n: p >= n - 1),
        "last": ProbedScope("last", lambda p, n: p == n - 1),
        f"{span}": ProbedScope(span, lambda p, n: p in span),
        "after(marker)": ProbedScope(marker, lambda p, n: p >= MARKER.stop),
    }


def likely_mistakes(right: PositionPredicate) -> dict[str, PositionPredicate]:
    """Return the positions that the likeliest mistakes steer instead of the right ones."""
    return {
        "one token later": lambda p, n: p > 0 and right(p - 1, n),
        "one token earlier": lambda p, n: right(p + 1, n),
        "all tokens": lambda p, n: True,
        UNSTEERED: lambda p, n: False,
    }


def in_rows(rows: Sequence[int], is_steered: PositionPredicate) -> TokenPredicate:
    """Return whether a token is in one of `rows` and at a steered position of it."""
    return lambda b, p, n: b in rows and is_steered(p, n)


def with_padding_counted(right: PositionPredicate) -> PositionPredicate:
    """Return `right` as a mistake: positions counted from the first padding token."""
    return lambda p, n: right(p + TOKENS - n, n)
