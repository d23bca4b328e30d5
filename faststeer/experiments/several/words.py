"""Words that several parts of the report share."""

from __future__ import annotations

from collections.abc import Sequence

from faststeer.experiments.several.scored import PROBABILITY, SCORE

AXES = {SCORE: "matching score", PROBABILITY: "matching probability"}


def listed(names: Sequence[str]) -> str:
    """As in a sentence."""
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def counted(names: Sequence[str], total: int) -> str:
    """How many of how many, and which."""
    return f"{len(names)} of {total}" + (f" ({', '.join(names)})" if names else "")


def on_two_lines(names: Sequence[str]) -> list[str]:
    """As under the bars of a picture."""
    return [name.replace(" ", "\n").replace("-", "-\n") for name in names]
